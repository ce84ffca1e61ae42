"""How the C library handles freed memory, which costs time on a CPU."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGE = 2**25  # kept as well, larger tensors would be split for small ones, and the process would grow and grow
_TUNABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Make glibc reuse freed memory instead of returning it to the system, for the rest of the process.

    By default, large tensors are returned when they are freed, and the system clears the pages of the next ones, which
    `scripts/bench_cpu.py allocator` measures. The process then stays as large as it has been.

    Nothing is changed with `IPR_KEEP_FREED_MEMORY=0`, if one of glibc's own variables is set, or with another C
    library.

    Returns:
        Whether the allocator was set.
    """
    unwanted = os.environ.get("IPR_KEEP_FREED_MEMORY") == "0" or any(name in os.environ for name in _TUNABLES)
    if unwanted or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
