"""This machine's speed and memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from implicit_prm.models.forward import best_device


def measured_tflops(
    dtype: torch.dtype, width: int, seconds: float = 1.0, clock: Callable[[], float] = time.perf_counter
) -> float:
    """TFLOP/s of matrix products of a model's width, on the first GPU or on the CPU."""
    device = best_device()
    left = torch.randn(1024, width, device=device).to(dtype)
    right = torch.randn(width, 4 * width, device=device).to(dtype)

    def multiply() -> None:
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()

    multiply()
    start, count = clock(), 0
    while clock() - start < seconds:
        multiply()
        count += 1
    return 2 * 1024 * width * 4 * width * count / (clock() - start) / 1e12


def memory_of_this_machine() -> float:
    """Bytes of the first GPU, or of main memory without one."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    import psutil  # type: ignore[import-untyped]  # a dependency of accelerate

    return psutil.virtual_memory().total
