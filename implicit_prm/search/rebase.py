"""Reward-balanced search, as REBASE (Wu et al., arXiv 2408.00724)."""

from __future__ import annotations

import numpy as np

from implicit_prm.config import RebaseConfig
from implicit_prm.search.protocols import Frontier


def rebase(frontier: Frontier, config: RebaseConfig, rng: np.random.Generator) -> list[int]:
    """The open slots are shared out by a softmax of the values, rounded by the largest remainders."""
    slots = frontier.open_slots
    if not slots:
        return frontier.refilled([], [])
    values = np.array([frontier.values[slot] for slot in slots])
    weights = np.exp((values - values.max()) / config.temperature)
    shares = np.round(len(slots) * weights / weights.sum(), 9)  # the last bits of equal values may differ
    counts = np.floor(shares).astype(int)
    largest = np.argsort(counts - shares, kind="stable")
    counts[largest[: len(slots) - counts.sum()]] += 1
    return frontier.refilled(slots, np.repeat(slots, counts).tolist())
