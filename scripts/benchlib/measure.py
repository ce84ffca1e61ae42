"""Wall time, CPU time and peak memory of calls that take turns, and the machine's own FLOP/s."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Measurement:
    """One call. `peak_bytes` is its peak above `held_bytes`, which the process held before; None if not measurable."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int | None
    held_bytes: int | None = None


@dataclass
class Rounds:
    """All measurements of a run: one dict per round, by variant, and the FLOP/s of a matrix product in each round."""

    measurements: list[dict[str, Measurement]] = field(default_factory=list)
    matmul_flops: list[float] = field(default_factory=list)
    interrupted: bool = False

    def of(self, name: str) -> list[Measurement]:
        """The measurements of a variant."""
        return [one[name] for one in self.measurements if name in one]

    def ratios(self, name: str, base: str) -> list[float]:
        """The speed-up over `base` in each round that has both."""
        return [one[base].seconds / one[name].seconds for one in self.measurements if {name, base} <= set(one)]

    @property
    def matmul(self) -> float:
        """Median FLOP/s of a large matrix product."""
        return median(self.matmul_flops) if self.matmul_flops else float("nan")


def interleave(
    variants: Mapping[str, Callable[[], Any]],
    rounds: int,
    seed: int,
    device: str,
    dtype: torch.dtype,
    say: Callable[[str], None],
) -> Rounds:
    """Time all variants in every round, in a new random order, so that other load on the machine affects all alike.

    Every variant must have run once before, so that no first call is timed. `say` is called with what runs. Ctrl-C
    ends the run and keeps the measurements.
    """
    result, rng = Rounds(), random.Random(seed)
    gc.collect()
    gc.freeze()  # existing objects need no further collection
    result.interrupted = True
    with contextlib.suppress(KeyboardInterrupt):
        for number in range(rounds):
            result.matmul_flops.append(matmul_flops(device, dtype))
            found: dict[str, Measurement] = {}
            result.measurements.append(found)
            for name in rng.sample(list(variants), len(variants)):
                say(f"round {number + 1} of {rounds}: {name}")
                found[name] = measured(variants[name], device)
        result.interrupted = False
    gc.unfreeze()
    return result


def measured(call: Callable[[], Any], device: str, trim: bool = True) -> Measurement:
    """Run `call` once; its result is dropped. With `trim`, freed memory is returned to the system first."""
    gc.collect()
    with _peak(device, trim) as peak:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        _wait(device)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Measurement(wall, cpu, peak.get("bytes"), peak.get("held"))


@contextlib.contextmanager
def _peak(device: str, trim: bool) -> Iterator[dict[str, int]]:
    """Yield a dict that has `bytes` after the block: peak memory within it, less `held`, the memory at its start."""
    found: dict[str, int] = {}
    if device.startswith("cuda"):
        _wait(device)
        torch.cuda.reset_peak_memory_stats()
        found["held"] = torch.cuda.memory_allocated()
        yield found
        found["bytes"] = torch.cuda.max_memory_allocated() - found["held"]
        return
    try:
        if trim:  # or the next call could reuse freed memory unseen
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        _CLEAR.write_text("5")  # resets the peak (VmHWM) to the current resident size
        found["held"] = _resident("VmRSS")
    except (OSError, AttributeError):  # not Linux with glibc
        yield found
        return
    yield found
    found["bytes"] = max(0, _resident("VmHWM") - found["held"])


def _resident(field_name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field_name))
    return int(line.split()[1]) * 1024


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def matmul_flops(device: str, dtype: torch.dtype, least_seconds: float = 0.3) -> float:
    """FLOP/s of a large square matrix product, with the variants' number of threads: the machine's limit."""
    size = 8192 if device.startswith("cuda") else 2048
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    left @ right
    _wait(device)
    start, products = time.perf_counter(), 0
    while products == 0 or time.perf_counter() - start < least_seconds:
        left @ right
        _wait(device)
        products += 1
    return products * 2 * size**3 / (time.perf_counter() - start)


def profiled(call: Callable[[], Any], device: str, operators: int = 12) -> str:
    """A table of the operators that take most of a call's time."""
    activities, time_of = [ProfilerActivity.CPU], "self_cpu_time_total"
    if device.startswith("cuda"):
        activities, time_of = [*activities, ProfilerActivity.CUDA], "self_device_time_total"
    with profile(activities=activities) as prof:
        call()
        _wait(device)
    events = sorted(prof.key_averages(), key=lambda event: -getattr(event, time_of))
    total = sum(getattr(event, time_of) for event in events)
    lines = [f"{'operator':<45} {'share':>6} {'seconds':>8} {'calls':>7}"]
    for event in events[:operators]:
        spent = getattr(event, time_of)
        lines.append(f"{event.key[:45]:<45} {spent / total:>6.1%} {spent / 1e6:>8.3f} {event.count:>7}")
    return "\n".join(lines)
