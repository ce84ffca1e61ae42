"""The processes of one `torchrun` or `accelerate launch`: which of them this is, and waiting for the others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from torch import distributed

from implicit_prm.utils.errors import ImplicitPRMError

T = TypeVar("T")

# Shares of the work are uneven, and the first to be done waits for the last; torch gives up after 10 to 30 minutes.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Processes:
    """This process' place among `size`. A process that nobody launched with others is the only one."""

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """`value` of every process, by rank; returns when the last one has come here.

        Raises:
            ImplicitPRMError: another process has ended instead.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        try:
            distributed.all_gather_object(values, value, self.group)
        except RuntimeError as error:
            raise ImplicitPRMError(
                "another process of this run has ended, and its message says why. What was done is kept, and the same "
                "command goes on from there"
            ) from error
        return values


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    """The processes that were launched together, connected by gloo: they exchange a few words and no tensors."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Processes()
        return
    ours = not distributed.is_initialized()
    if ours:
        distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        yield Processes(distributed.get_rank(), distributed.get_world_size(), group)
    finally:
        if ours:
            distributed.destroy_process_group()


def is_first() -> bool:
    """Is this the process that speaks and writes for all?"""
    return int(os.environ.get("RANK", 0)) == 0


def spoken_once(say: Callable[[str], None]) -> Callable[[str], None]:
    """`say` in the first process, and nothing in the others."""
    return say if is_first() else lambda _: None
