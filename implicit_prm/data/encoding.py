"""Encode the groups of a data set: in this process, or a large one in several."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from implicit_prm.data.tokenization import EncodedGroup
from implicit_prm.types import Group, ImplicitPRMError
from implicit_prm.utils.progress import progress

EncodeGroup = Callable[[Group], EncodedGroup]

_CHUNK = 64  # groups that are sent back at a time
_MOST_PROCESSES = 32  # by default
_work: tuple[Sequence[Group], EncodeGroup]


def encoded_groups(
    groups: Sequence[Group], encode_group: EncodeGroup, processes: int = 1, shown: bool = False
) -> Iterator[EncodedGroup]:
    """The groups as token ids, in order.

    Args:
        groups: the groups.
        encode_group: the `group` method of an `Encoder` or a `Layout`.
        processes: how many encode at the same time.
        shown: show progress; a CPU core encodes about 300,000 tokens per second.

    Raises:
        ImplicitPRMError: a response that cannot be encoded, or a process that was killed.
    """
    with progress("encoding", len(groups), shown) as advance:
        # The first ones are encoded here, so that their warnings are shown once.
        first = len(groups) if processes == 1 else min(_CHUNK, len(groups))
        for group in groups[:first]:
            yield encode_group(group)
            advance(1)
        if first < len(groups):
            for encoded in _in_processes(groups, encode_group, first, processes):
                yield encoded
                advance(1)


def _in_processes(
    groups: Sequence[Group], encode_group: EncodeGroup, first: int, processes: int
) -> Iterator[EncodedGroup]:
    # A forked process has the groups already; elsewhere they are sent to it.
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(processes, context, _start, (groups, encode_group)) as pool:
        try:
            for chunk in pool.map(_encode_chunk, range(first, len(groups), _CHUNK)):
                yield from chunk
        except BrokenProcessPool as error:
            raise ImplicitPRMError(
                f"one of {processes} encoding processes was killed, perhaps for lack of memory; use fewer of them "
                "(data.num_proc, or dataset_num_proc of ImplicitPRMTrainer)"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start(groups: Sequence[Group], encode_group: EncodeGroup) -> None:
    global _work
    _work = groups, encode_group
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    warnings.simplefilter("ignore")


def _encode_chunk(start: int) -> list[EncodedGroup]:
    groups, encode_group = _work
    return [encode_group(group) for group in groups[start : start + _CHUNK]]


def default_processes() -> int:
    """One for each CPU core that this process may use, at most 32."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_PROCESSES)
