"""Several processes that share a run's work, as `accelerate launch` or `torchrun` start them."""

from __future__ import annotations

import os
from datetime import timedelta

from accelerate import PartialState


def processes() -> PartialState:
    """Which process this is, of how many, and how to wait for the others.

    A process waits for the slowest for as long as it takes: shares of work differ by hours at scale.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return PartialState(timeout=timedelta(days=7)) if several else PartialState()
