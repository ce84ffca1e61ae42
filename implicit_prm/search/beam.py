"""Beam search over steps, as in Hugging Face's search-and-learn."""

from __future__ import annotations

import numpy as np

from implicit_prm.config import BeamConfig
from implicit_prm.search.protocols import Frontier


def beam(frontier: Frontier, config: BeamConfig, rng: np.random.Generator) -> list[int]:
    """The best 1/`branch` of the open prefixes are continued `branch` times each; finished ones keep their slots."""
    slots = frontier.open_slots
    kept = -(-len(slots) // config.branch)
    return frontier.refilled(slots, frontier.best(slots)[:kept])
