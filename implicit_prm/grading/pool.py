"""Several graders at work at the same time."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from implicit_prm.config import GradingConfig
from implicit_prm.grading.grader import Grader
from implicit_prm.grading.store import ResultStore

T = TypeVar("T")
R = TypeVar("R")
_MOST_WORKERS = 8


class GraderPool:
    """Graders with a worker process each, which share the results on disk.

    Examples:
        >>> with GraderPool(GradingConfig(workers=2)) as graders:
        ...     verdicts = list(graders.map(lambda grader, text: grader.grade(text, "4"), ["It is 4.", "It is 5."]))
        >>> [verdict.correct for verdict in verdicts]
        [True, False]

    Args:
        config: options; `workers` is the number of graders.
    """

    def __init__(self, config: GradingConfig) -> None:
        root = None if config.cache == "default" else config.cache
        self._store = None if config.cache is None else ResultStore(root, config.limit_s)
        count = usable_cores() if config.workers is None else config.workers
        self._graders = [Grader(config.extraction, config.limit_s, self._store) for _ in range(count)]
        self._idle: queue.LifoQueue[Grader] = queue.LifoQueue()
        for grader in self._graders:
            self._idle.put(grader)
        self._threads = ThreadPoolExecutor(count, "grading") if count > 1 else None

    def map(self, work: Callable[[Grader, T], R], items: Sequence[T]) -> Iterator[R]:
        """`work(grader, item)` for each item, in order; as many at a time as there are graders."""
        if self._threads is None or len(items) < 2:
            return (work(self._graders[0], item) for item in items)

        def with_idle(item: T) -> R:
            grader = self._idle.get()
            try:
                return work(grader, item)
            finally:
                self._idle.put(grader)

        return self._threads.map(with_idle, items)

    def __enter__(self) -> GraderPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:  # do not wait for comparisons that nobody needs any more
            for grader in self._graders:
                grader.stop()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        for grader in self._graders:
            grader.close()


def usable_cores() -> int:
    """CPU cores for each process of this machine that was launched together with this one; 8 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
