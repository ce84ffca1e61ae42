"""Several processes that share a run's work, as `accelerate launch` or `torchrun` start them."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import PartialState


def processes() -> PartialState:
    """Which process this is, of how many, and how to wait for the others.

    A process waits for the slowest for as long as it takes: shares of work differ by hours at scale.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    # Without a GPU it must be told so, or each of several processes takes itself for the only one.
    cpu = not torch.accelerator.is_available()
    return PartialState(cpu=cpu, timeout=timedelta(days=7)) if several else PartialState(cpu=cpu)
