"""Feed hostile rows, texts, templates, options and damaged files to the library, and report what it mishandles.

    python scripts/fuzz.py                                  # 10,000 cases
    python scripts/fuzz.py --cases 100000 --seed 7 --seconds 3600
    python scripts/fuzz.py --only rows:123                  # one case again, with its traceback

A case passes if it succeeds or ends in an `ImplicitPRMError`, and takes less CPU time than a limit. Everything else is
a failure: another exception, a failed assertion, a hang. The cases of a seed are the same in every run. Exit status 1
if there was a failure.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from fuzzlib import files, options, rows, texts
from transformers.utils import logging

from implicit_prm.types import ImplicitPRMError

# Each area opens its cases once, in a folder of its own, and gets this share of all cases.
AREAS: dict[str, tuple[Callable[[Path], Callable[[random.Random], None]], float]] = {
    "rows": (rows.open_case, 0.3),
    "steps": (texts.open_steps, 0.15),
    "grading": (texts.open_grading, 0.1),
    "replies": (texts.open_replies, 0.05),
    "templates": (texts.open_templates, 0.1),
    "options": (options.open_values, 0.18),
    "command lines": (options.open_command_lines, 0.03),
    "checkpoints": (files.open_checkpoints, 0.05),
    "records": (files.open_records, 0.04),
}
LIMIT_CPU_S = 20.0  # of a case; the slowest that passes takes a few seconds


@dataclass
class Result:
    """What happened to the cases of an area: counts, failures by where they were raised, the slowest case."""

    succeeded: int = 0
    refused: int = 0
    failures: dict[str, list[int]] = field(default_factory=dict)
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, 0)

    @property
    def cases(self) -> int:
        return self.succeeded + self.refused + sum(map(len, self.failures.values()))


class Hang(BaseException):
    """A case took too much CPU time."""


def main() -> None:
    """Run the cases and print a table."""
    arguments = parse()
    warnings.simplefilter("ignore")
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    signal.signal(signal.SIGPROF, stop)
    chosen, number = (arguments.only or ":").split(":")
    deadline = time.monotonic() + arguments.seconds
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for area, (opened, share) in AREAS.items():
            if chosen not in ("", area):
                continue
            place = Path(folder, area.replace(" ", "_"))
            place.mkdir()
            numbers = range(round(arguments.cases * share)) if not number else [int(number)]
            results[area] = run(area, opened(place), numbers, arguments.seed, deadline, raising=bool(number))
        os.chdir("/")
    report(results, arguments.json)
    sys.exit(any(result.failures for result in results.values()))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="number of cases over all areas")
    parser.add_argument("--seed", type=int, default=0, help="of the cases")
    parser.add_argument("--seconds", type=float, default=3600, help="start no case after so many seconds")
    parser.add_argument("--only", help=f"an area or one case of it, AREA[:NUMBER]; areas: {', '.join(AREAS)}")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    if arguments.only and ":" not in arguments.only:
        arguments.only += ":"
    return arguments


def run(
    area: str,
    case: Callable[[random.Random], None],
    numbers: range | list[int],
    seed: int,
    deadline: float,
    raising: bool = False,
) -> Result:
    """Run cases of an area, each with its own generator; failures are printed as they are found."""
    result = Result()
    for number in numbers:
        if time.monotonic() > deadline:
            break
        rng = random.Random(f"{seed} {area} {number}")
        started = time.process_time()
        # For a hang in C, which hears no signal.
        faulthandler.dump_traceback_later(60 * LIMIT_CPU_S, exit=True, file=sys.__stderr__)
        try:
            signal.setitimer(signal.ITIMER_PROF, LIMIT_CPU_S)
            case(rng)
            result.succeeded += 1
        except ImplicitPRMError as error:
            result.refused += 1
            if raising:
                print(f"{area}:{number}: {error}")
        except (Exception, Hang) as error:
            if raising:
                raise
            where = place_of(error)
            if where not in result.failures:
                print(f"{area}:{number}: {where}: {type(error).__name__}: {str(error)[:200]!a}", flush=True)
            result.failures.setdefault(where, []).append(number)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()
        took = time.process_time() - started
        result.seconds += took
        result.slowest = max(result.slowest, (took, number))
    return result


def stop(*_: object) -> None:
    """End a case that has used up its CPU time."""
    raise Hang(f"over {LIMIT_CPU_S:g} CPU seconds")


def place_of(error: BaseException) -> str:
    """The last line of the library that an exception came through, which names a failure."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "implicit_prm" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


def report(results: dict[str, Result], path: Path | None) -> None:
    """Print the table, and write it as JSON."""
    print(f"{'':14}{'cases':>8}{'succeeded':>11}{'refused':>9}{'failures':>10}{'CPU s':>8}{'slowest s':>11}")
    for area, one in results.items():
        failures = sum(map(len, one.failures.values()))
        counts = f"{one.cases:8,}{one.succeeded:11,}{one.refused:9,}{failures:10,}"
        print(f"{area:14}{counts}{one.seconds:8.1f}{one.slowest[0]:11.2f}")
    print(f"{'all':14}{sum(one.cases for one in results.values()):8,}")
    if path is not None:
        path.write_text(json.dumps({area: vars(one) for area, one in results.items()}, indent=2))


if __name__ == "__main__":
    main()
