import os
import subprocess
import threading
import time

import pytest

from implicit_prm.config import GradingConfig
from implicit_prm.grading import GraderPool
from implicit_prm.grading.pool import usable_cores
from implicit_prm.grading.process import WorkerProcess
from implicit_prm.types import ImplicitPRMError

ENDLESS = "9^{9^{9^9}}"


def pool(**options):
    return GraderPool(GradingConfig(cache=None, **options))


@pytest.mark.parametrize("workers", [1, 3])
def test_results_are_in_order_whatever_the_number_of_workers(workers):
    pairs = [(str(k), rf"\sqrt{{{k * k}}}") if k % 2 else (str(k), rf"\sqrt{{{k}}}x") for k in range(1, 9)]
    with pool(workers=workers) as graders:
        verdicts = list(graders.map(lambda grader, pair: grader.equal(*pair).correct, pairs))
        assert verdicts == [True, False] * 4
        processes = {grader._worker._process.pid for grader in graders._graders if grader._worker._process}
    assert len(processes) <= workers
    assert all(grader._worker._process is None for grader in graders._graders)


def test_a_worker_at_its_limit_does_not_hold_up_the_others():
    with pool(workers=2, limit_s=1.5) as graders:
        answers = [ENDLESS, *(rf"\sqrt{{{k}}}" for k in range(2, 6))]
        statuses = list(graders.map(lambda grader, answer: grader.equal("2", answer).status, answers))
    assert statuses == ["timeout", "different", "different", "equal", "different"]


def test_an_error_ends_the_pool_at_once():
    def interrupted():
        with pool(workers=2, limit_s=60) as graders:
            graders.map(lambda grader, answer: grader.equal("2", answer), [ENDLESS] * 5)
            while not any(grader._worker._process for grader in graders._graders):
                time.sleep(0.01)
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - started < 30
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("grading")]


def test_a_worker_that_is_stopped_while_it_starts_does_no_work(monkeypatch):
    worker, start = WorkerProcess(limit_s=60), subprocess.Popen

    def stopped_meanwhile(*arguments, **options):
        worker.stop()
        return start(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", stopped_meanwhile)
    with pytest.raises(ImplicitPRMError, match="stopped"):
        worker.call("compare", "1", "1")
    assert worker._process is None


def test_an_error_in_the_work_is_raised():
    with pytest.raises(ZeroDivisionError), pool(workers=2) as graders:
        list(graders.map(lambda grader, number: 1 / number, [1, 0, 1]))


def test_usable_cores_are_shared_by_the_processes_of_a_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert usable_cores() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert usable_cores() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "128")
    assert usable_cores() == 1
