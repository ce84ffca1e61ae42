"""What is done to the commands: killed, started twice, run on a full disk."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from implicit_prm.utils.progress import tracked
from reliabilitylib.cases import Case, differing, leftovers, result
from reliabilitylib.processes import Command

# Until then a command only reads its options.
START_CPU_SECONDS = 0.3
_SAYS_FULL = ("the disk is full", "No space left on device")


@dataclass
class Whole:
    """An uninterrupted run: its folder, CPU seconds, bytes on disk and result."""

    folder: Path
    cpu_seconds: float
    size_bytes: int
    result: dict[str, object]


@dataclass
class Tally:
    """What happened in the attempts of one case.

    Attributes:
        attempts: number of them.
        as_expected: those in which the disturbed command ended as it should.
        resumed: those in which the next command finished.
        equal: those with the result of the uninterrupted run.
        progress: the finished parts of the output when the command was disturbed.
        leftovers: files that remained in the end.
        failures: what went wrong, for a reader.
    """

    attempts: int = 0
    as_expected: int = 0
    resumed: int = 0
    equal: int = 0
    progress: list[int] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def compare(self, folder: Path, whole: Whole) -> None:
        """Compare a finished run with the uninterrupted one."""
        wrong = differing(folder, whole.result)
        self.equal += not wrong
        self.failures += [f"{folder}: {name} differs" for name in wrong]
        self.leftovers += leftovers(folder, whole.folder)

    def resume(self, case: Case, folder: Path, whole: Whole) -> None:
        """Run the command again, to its end, and compare."""
        command = Command((*case.line, *case.resume), folder)
        if command.wait():
            self.failures.append(f"{folder}: not resumed: {command.output[-500:]}")
            return
        self.resumed += 1
        self.compare(folder, whole)


def uninterrupted(case: Case, folder: Path) -> Whole:
    """Run the command once to its end."""
    folder.mkdir(parents=True)
    command = Command(case.line, folder)
    if command.wait():
        raise RuntimeError(f"{case.name} failed:\n{command.output}")
    return Whole(folder, command.cpu_seconds, _size(folder), result(folder))


def kills(case: Case, whole: Whole, folder: Path, count: int, seed: int) -> Tally:
    """Kill the command at `count` random moments of its CPU time, each in a run of its own, and resume it."""
    return _signalled(case, whole, folder / "kill", count, random.Random(f"kill {seed} {case.name}"), signal.SIGKILL)


def terminations(case: Case, whole: Whole, folder: Path, count: int, seed: int) -> Tally:
    """The same with SIGTERM, which a scheduler sends first: the command has to end with a sentence and status 143."""
    return _signalled(case, whole, folder / "term", count, random.Random(f"term {seed} {case.name}"), signal.SIGTERM)


def _signalled(case: Case, whole: Whole, folder: Path, count: int, moments: random.Random, number: int) -> Tally:
    tally = Tally()
    for attempt in tracked(range(count), f"{case.name}: {signal.Signals(number).name}"):
        finished = True
        while finished:  # quicker than the uninterrupted run
            run = _empty(folder / str(attempt))
            command = Command(case.line, run)
            status = command.signal_after(moments.uniform(START_CPU_SECONDS, whole.cpu_seconds), number)
            finished = status == 0 or (case.at_once and case.progress(run) > 0)
        tally.attempts += 1
        tally.progress.append(case.progress(run))
        said = command.output
        if number == signal.SIGKILL or (status == 143 and "terminated" in said and "Traceback" not in said):
            tally.as_expected += 1
        else:
            tally.failures.append(f"{run}: status {status}, {said[-500:]}")
        tally.resume(case, run, whole)
    return tally


def two_at_once(case: Case, whole: Whole, folder: Path, count: int) -> Tally:
    """Start the command twice at the same moment: one has to be refused, and the other must not notice."""
    tally = Tally()
    for number in tracked(range(count), f"{case.name}: two at once"):
        run = _empty(folder / "two" / str(number))
        both = [Command(case.line, run) for _ in range(2)]
        tally.attempts += 1
        statuses = [command.wait() for command in both]
        if sorted(statuses) != [0, 1]:
            tally.failures.append(f"{run}: exit statuses {statuses}")
            continue
        winner, refused = (both[statuses.index(status)] for status in (0, 1))
        if f"process {winner.process} on" in refused.output and "Traceback" not in refused.output:
            tally.as_expected += 1
        else:
            tally.failures.append(f"{run}: the second says {refused.output[-300:]}")
        tally.compare(run, whole)
    return tally


def full_disk(case: Case, whole: Whole, folder: Path, count: int, seed: int) -> Tally:
    """Run the command on a disk with room for a random part of what it writes; then give it room, and resume it."""
    tally, parts = Tally(), random.Random(f"{seed} {case.name}")
    for number in tracked(range(count), f"{case.name}: full disk"):
        room_bytes = int(parts.uniform(0.05, 0.95) * whole.size_bytes)
        with _small_disk(_empty(folder / "disk" / str(number)), room_bytes) as (run, enlarge):
            command = Command(case.line, run)
            status = command.wait()
            tally.attempts += 1
            tally.progress.append(case.progress(run))
            said = command.output
            if status == 1 and any(words in said for words in _SAYS_FULL) and "Traceback" not in said:
                tally.as_expected += 1
            else:
                tally.failures.append(f"{run}, {room_bytes} bytes: status {status}, {said[-500:]}")
            enlarge()
            tally.resume(case, run, whole)
    return tally


def can_mount(folder: Path) -> bool:
    """Whether a small disk can be made here, which needs the right to mount."""
    try:
        with _small_disk(_empty(folder / "mount"), 4096):
            return True
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False


@contextlib.contextmanager
def _small_disk(folder: Path, room_bytes: int) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A disk in memory with so much room, and a function that gives it plenty."""

    def mount(*options: str) -> None:
        subprocess.run(["mount", *options, str(folder)], check=True, capture_output=True)

    mount("-t", "tmpfs", "-o", f"size={max(room_bytes, 4096)}", "tmpfs")  # size=0 would be without a limit
    try:
        yield folder, lambda: mount("-o", "remount,size=1g")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _size(folder: Path) -> int:
    """Bytes on disk, in whole pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())
