"""Progress of long work: a tqdm bar in a terminal or notebook, a line every half minute in a log.

tqdm, because transformers, datasets and huggingface_hub use it, so all bars of a run look alike. In a log, where tqdm's
refreshes would end up in one endless line, all of its bars are switched off and plain lines are printed instead.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

LOG_INTERVAL_SECONDS = 30.0


def shows_bars() -> bool:
    """Can a bar be redrawn here? True in a terminal and in a notebook, False where output goes to a file or pipe."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def disable_bars_in_logs() -> None:
    """In a log, switch off the tqdm bars of all libraries. Call it before they are imported."""
    if not shows_bars():
        os.environ.setdefault("TQDM_DISABLE", "1")


@contextmanager
def progress(what: str, total: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show how much of `total` is done.

    Args:
        what: names the work, such as "scoring".
        total: number of items.
        shown: False for all processes but the first.

    Yields:
        A function to call with the number of items just finished.
    """
    if not shown or not total:
        yield lambda done: None
    elif shows_bars():
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=what, dynamic_ncols=True) as bar:

            def advance(done: int) -> None:
                bar.update(done)

            yield advance
    else:
        yield ProgressLines(what, total)


def tracked(items: Sequence[T], what: str, shown: bool = True) -> Iterator[T]:
    """Iterate over the items and show the progress."""
    with progress(what, len(items), shown) as advance:
        for item in items:
            yield item
            advance(1)


class ProgressLines:
    """Prints a line such as `scoring: 128 of 500, 0:01:00, 0:02:54 left` every half minute, and one at the end."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self._started = self._printed = time.monotonic()

    def __call__(self, done: int) -> None:
        """Count `done` more items."""
        self.done += done
        now = time.monotonic()
        finished = self.done >= self.total
        if not finished and (not self.done or now - self._printed < LOG_INTERVAL_SECONDS):
            return
        self._printed = now
        elapsed = now - self._started
        left = "" if finished else f", {_clock(elapsed * (self.total - self.done) / self.done)} left"
        print(f"{self.what}: {self.done:,} of {self.total:,}, {_clock(elapsed)}{left}", flush=True)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
