"""Diverse verifier tree search, as in Hugging Face's search-and-learn: beams that never compete with each other."""

from __future__ import annotations

import numpy as np

from implicit_prm.config import DVTSConfig
from implicit_prm.search.protocols import Frontier


def dvts(frontier: Frontier, config: DVTSConfig, rng: np.random.Generator) -> list[int]:
    """Each tree has `branch` consecutive slots; its open slots continue the best of them."""
    parents = list(range(len(frontier.values)))
    for start in range(0, len(parents), config.branch):
        slots = [slot for slot in range(start, start + config.branch) if frontier.open[slot]]
        for slot in slots:
            parents[slot] = frontier.best(slots)[0]
    return parents
