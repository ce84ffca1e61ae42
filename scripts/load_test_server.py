"""Load `ipr-serve` on this machine: throughput and latency, memory over many requests, kill -9 and SIGTERM in mid-load.

    python scripts/load_test_server.py --checkpoint outputs/sandbox/ce --candidates outputs/sandbox/train.jsonl
    python scripts/load_test_server.py ... --only load --concurrency 1 8 --requests 200

`make demo` leaves both files. The clients run in this process. Every answer is compared with direct scoring; of the
many requests of the memory test, one in a hundred is. The tables of docs/serving.md are printed. The exit status is 1
if an answer was lost or differs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the sandbox's models are too small to share

from loadtestlib.load import Answer, largest_difference, requests, send
from loadtestlib.server import Server

from implicit_prm import ImplicitPRM, load_groups

TOLERANCE = 1e-3  # in beta x nats: responses that are scored together are rounded differently
CLIENTS = 16  # where their number is not varied
SAMPLES = 12  # of the resident memory


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="of ipr-train")
    parser.add_argument("--candidates", required=True, help="grouped responses, whose prompts are sent")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16, 64], help="(default: 1 4 16 64)")
    parser.add_argument("--responses", type=int, nargs="+", default=[8, 1], help="in a request (default: 8 1)")
    parser.add_argument("--requests", type=int, default=500, help="in each measurement (default: %(default)s)")
    parser.add_argument("--hour", type=int, default=10_800, help="requests of the memory test (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("outputs/load_test"), help="(default: %(default)s)")
    return parser.parse_args()


class Campaign:
    """What the parts share. `failed` says whether an answer was lost or differs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.failed = options, False
        self.groups = load_groups(options.candidates, graded=False)
        self.prm = ImplicitPRM.from_pretrained(options.checkpoint)
        shutil.rmtree(options.out, ignore_errors=True)

    def server(self, name: str, *options: str) -> Server:
        """A server with a folder of this name, which later ones may share."""
        return Server(self.options.checkpoint, (self.options.out / name).resolve(), options)

    def check(self, answers: Sequence[Answer], expected: int) -> list[str]:
        """How many were answered, and the largest difference from direct scoring."""
        answered = sum(answer.step_rewards is not None for answer in answers)
        difference = largest_difference(answers, self.prm)
        self.failed |= answered != expected or difference > TOLERANCE
        return [f"{answered:,} of {expected:,}", f"{difference:.1e}"]

    def disturbed(self, server: Server, disturb: Callable[[Server], None], seed: int) -> list[Answer]:
        """Answers to a load that is disturbed when half of it is answered."""
        answers: list[Answer] = []

        async def run() -> None:
            some = islice(requests(self.groups, self.options.responses[0], seed), self.options.requests)
            load = asyncio.create_task(send(server.address, some, CLIENTS, answers))
            while len(answers) < self.options.requests / 2:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(disturb, server)
            await load

        asyncio.run(run())
        return answers


def load(campaign: Campaign) -> None:
    """Throughput and latency against the number of clients."""
    header(
        "responses in a request",
        "clients",
        "responses/s",
        "p50 ms",
        "p95 ms",
        "server's CPU ms per response",
        "of direct scoring",
        "requests in a batch",
        "answered",
        "largest difference",
    )
    server = campaign.server("load")
    for responses in campaign.options.responses:
        for clients in campaign.options.concurrency:
            measure(campaign, server, responses, clients)
    server.stop()


def measure(campaign: Campaign, server: Server, responses: int, clients: int) -> None:
    sent = list(islice(requests(campaign.groups, responses, 100 * clients + responses), campaign.options.requests))
    count = sum(len(request.responses) for request in sent)
    names = ("process_cpu_seconds_total", "ipr_batch_requests_sum", "ipr_batch_requests_count")
    before, started = list(map(server.metric, names)), time.perf_counter()
    answers = asyncio.run(send(server.address, iter(sent), clients))
    seconds = time.perf_counter() - started
    cpu, joined, batches = (server.metric(name) - old for name, old in zip(names, before, strict=True))
    direct = time.process_time()
    checked = campaign.check(answers, len(sent))
    direct = time.process_time() - direct
    latencies = statistics.quantiles([1e3 * answer.seconds for answer in answers], n=20)
    row(
        responses,
        clients,
        f"{count / seconds:,.0f}",
        f"{latencies[9]:.1f}",
        f"{latencies[18]:.1f}",
        f"{1e3 * cpu / count:.2f}",
        f"{1e3 * direct / count:.2f}",
        f"{joined / batches:.1f}",
        *checked,
    )


def memory(campaign: Campaign) -> None:
    """Resident memory of the server over as many requests as an hour has at 3 a second, of one response each."""
    header("requests", "resident MB", "server's CPU s", "lost")
    server = campaign.server("memory", "reference_cache_entries=4096")  # full after the first third
    waiting = requests(campaign.groups, 1, seed=1)
    share, lost, sample = campaign.options.hour // SAMPLES, 0, []
    for part in range(SAMPLES + 1):
        if part:
            answers = asyncio.run(send(server.address, islice(waiting, share), CLIENTS))
            lost += sum(answer.step_rewards is None for answer in answers)
            sample += answers[::100]
        resident, cpu = map(server.metric, ("process_resident_memory_bytes", "process_cpu_seconds_total"))
        row(f"{part * share:,}", f"{resident / 1e6:.1f}", f"{cpu:.0f}", lost)
    server.stop()
    campaign.failed |= lost > 0
    print("Compared with direct scoring:", ", largest difference ".join(campaign.check(sample, len(sample))))


def kill(campaign: Campaign) -> None:
    """kill -9 in mid-load, then a new server with the same folder."""
    header("kill", "answered before", "largest difference", "failed", "sent again and answered", "largest difference")
    for number in range(campaign.options.kills):
        answers = campaign.disturbed(campaign.server("kill"), Server.kill, 200 + number)
        failed = [answer for answer in answers if answer.step_rewards is None]
        again = campaign.server("kill")
        repeated = asyncio.run(send(again.address, (answer.request for answer in failed), CLIENTS))
        again.stop()
        before = campaign.check(answers, len(answers) - len(failed))
        row(number + 1, *before, errors(failed), *campaign.check(repeated, len(failed)))


def stop(campaign: Campaign) -> None:
    """SIGTERM in mid-load: what runs is finished, the rest refused."""
    header("exit status", "answered", "largest difference", "refused")
    status: list[int] = []
    answers = campaign.disturbed(campaign.server("stop"), lambda server: status.append(server.stop()), 300)
    refused = [answer for answer in answers if answer.step_rewards is None]
    campaign.failed |= status != [0]
    row(status[0], *campaign.check(answers, len(answers) - len(refused)), errors(refused))


def errors(answers: Sequence[Answer]) -> str:
    """Number of failed requests by error."""
    kinds = Counter(answer.error for answer in answers)
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common()) or "0"


def header(*cells: object) -> None:
    """Print the first lines of a table in Markdown."""
    print()
    row(*cells)
    print(f"|{'---|' * len(cells)}", flush=True)


def row(*cells: object) -> None:
    """Print a row of a table in Markdown."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


PARTS = {"load": load, "memory": memory, "kill": kill, "stop": stop}


def main() -> None:
    options = parse()
    campaign = Campaign(options)
    for name in options.only:
        PARTS[name](campaign)
    sys.exit(campaign.failed)


if __name__ == "__main__":
    main()
