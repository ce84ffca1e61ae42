"""Processes that were launched together exchange values, however often they connect."""

import multiprocessing
import os
import time

from torch.distributed import TCPStore

from implicit_prm.utils.distributed import processes


def _connect_often(rank, port):
    launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank}
    os.environ |= {name: str(value) for name, value in launched.items()} | {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    for number in range(6):
        with processes() as team:
            assert team.gather((number, team.rank)) == [(number, 0), (number, 1)]
        time.sleep(0.1 * rank)  # the other process is ahead, and reads what this one has left in the store


def test_processes_connect_several_times():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # torchrun's, which outlives connections
    context = multiprocessing.get_context("fork")
    launched = [context.Process(target=_connect_often, args=(rank, store.port)) for rank in (0, 1)]
    for process in launched:
        process.start()
    for process in launched:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in launched] == [0, 0]
