"""Progress of long work: a bar where somebody watches, a line every half minute where a log is written.

rich draws nothing into a log before the work is done, and a job on a cluster would look dead for hours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

T = TypeVar("T")

_SECONDS = 30.0  # between two lines of a log


@contextmanager
def progress(what: str, total: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Shows how much of `total` is done; gives a function to call with how much was done just now."""
    console = Console()
    if not shown or not total:
        yield lambda done: None
    elif console.is_terminal or console.is_jupyter:
        # In a notebook, rich and ipykernel would flush what a loading model writes to each other.
        streams = not console.is_jupyter
        with Progress(console=console, redirect_stdout=streams, redirect_stderr=streams) as bars:
            bar = bars.add_task(what, total=total)
            yield lambda done: bars.advance(bar, done)
    else:
        yield _Lines(what, total)


def tracked(items: Sequence[T], what: str, shown: bool = True) -> Iterator[T]:
    """The items, with progress shown."""
    with progress(what, len(items), shown) as advance:
        for item in items:
            yield item
            advance(1)


class _Lines:
    """`scoring: 128 of 500, 0:01:00, 0:02:54 to go`."""

    def __init__(self, what: str, total: int):
        self.what, self.total, self.done = what, total, 0
        self.started = self.said = time.monotonic()

    def __call__(self, done: int) -> None:
        self.done += done
        now = time.monotonic()
        finished = self.done >= self.total
        if not finished and (not self.done or now - self.said < _SECONDS):
            return
        self.said = now
        passed = now - self.started
        rest = "" if finished else f", {_clock(passed * (self.total - self.done) / self.done)} to go"
        print(f"{self.what}: {self.done:,} of {self.total:,}, {_clock(passed)}{rest}", flush=True)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
