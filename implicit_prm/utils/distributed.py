"""The processes of one `torchrun` or `accelerate launch`: rank, number of processes, gathering values."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from torch import distributed

from implicit_prm.utils.errors import ImplicitPRMError

T = TypeVar("T")

# Shares of the work are uneven and the first process waits for the last; torch's own timeout is 10 to 30 minutes.
_TIMEOUT = timedelta(days=30)
_connections = itertools.count()  # the same in all processes, which connect equally often


@dataclass(frozen=True)
class Processes:
    """The rank of this process among `size` processes; rank 0 of 1 without a launcher."""

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The `value` of every process, by rank. Blocks until all processes have called it.

        Raises:
            ImplicitPRMError: another process has ended.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        try:
            distributed.all_gather_object(values, value, self.group)
        except RuntimeError as error:
            raise ImplicitPRMError(
                "another process of this run has ended; see its message. Finished work is kept, and the same command "
                "resumes"
            ) from error
        return values


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    """The processes that were launched together, connected by gloo, since they exchange Python objects."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Processes()
        return
    ours = not distributed.is_initialized()
    if ours:
        store, rank, size = next(distributed.rendezvous("env://", timeout=_TIMEOUT))
        # A prefix of its own: the addresses that an earlier group has left in the store are no longer listened at.
        store = distributed.PrefixStore(f"implicit_prm_{next(_connections)}", store)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    try:
        group = distributed.new_group(backend="gloo", timeout=_TIMEOUT)
        yield Processes(distributed.get_rank(), distributed.get_world_size(), group)
    finally:
        if ours:
            distributed.destroy_process_group()


def is_first() -> bool:
    """Is this the process that prints and writes?"""
    return int(os.environ.get("RANK", 0)) == 0


def spoken_once(say: Callable[[str], None]) -> Callable[[str], None]:
    """`say` in the first process, and a function that does nothing in the others."""
    return say if is_first() else lambda _: None
