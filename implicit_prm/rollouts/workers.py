"""Work on several items at a time, in threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_threads(items: Sequence[T], work: Callable[[T], R], workers: int) -> Iterator[R]:
    """The results of `work` for all items, as they are ready.

    After a failure, no new item is started, the results of those in progress are yielded, and then the error is raised.

    Args:
        items: what to work on, in this order.
        work: takes an item; several threads call it at the same time.
        workers: how many threads, at most.
    """
    waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    running = min(workers, len(items))
    outcomes: queue.Queue[tuple[R] | Exception | None] = queue.Queue(2 * running)
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                outcomes.put((work(item),))
            except Exception as error:
                stop.set()
                outcomes.put(error)
        outcomes.put(None)

    # Daemon threads: an interrupted program must not wait for a request or for the pause before a retry.
    for _ in range(running):
        threading.Thread(target=run, daemon=True).start()
    failure: Exception | None = None
    try:
        while running:
            outcome = outcomes.get()
            if outcome is None:
                running -= 1
            elif isinstance(outcome, tuple):
                yield outcome[0]
            else:
                failure = failure or outcome
    finally:
        stop.set()
        while not outcomes.empty():  # unblock workers that wait to put an outcome
            outcomes.get_nowait()
    if failure is not None:
        raise failure
