"""The rate of a matrix product and the memory of this machine."""

import pytest
import torch

from implicit_prm.costs.machine import measured_tflops, memory_of_this_machine


def test_rate_is_measured_until_the_clock_has_passed():
    ticks = iter(range(100))
    found = measured_tflops(torch.float32, 64, seconds=2, clock=lambda: next(ticks))
    assert found == pytest.approx(2 * 1024 * 64 * 256 / 3 / 1e12)  # one product in three ticks


def test_memory_is_that_of_the_machine():
    assert memory_of_this_machine() > 2**30
