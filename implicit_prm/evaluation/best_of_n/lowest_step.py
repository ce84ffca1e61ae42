"""Position of the lowest step, and the last step's share: a score decided at the end does not read the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.statistics import clustered_ratio, finite
from implicit_prm.types import StepScores

POSITIONS = 10


def lowest_step_positions(
    candidates: Sequence[Candidates], scores: Sequence[Sequence[StepScores]], resamples: int, seed: int
) -> dict[str, Any]:
    """Relative position of the lowest step reward (the first of equals), for right and for wrong responses.

    Step k of S is at k / (S - 1), 0 to 1, in one of ten bins. `even` is the share of each bin if every step of
    a response were the lowest equally often: short responses have few positions. Responses with fewer than two scored
    steps have no position and are counted in `left_out`. Intervals are 95 % percentile bootstrap over problems.
    """
    found: dict[str, Any] = {}
    for name, kind in (("right", True), ("wrong", False)):
        positions, even = np.zeros(POSITIONS), np.zeros(POSITIONS)
        last, total = np.zeros(len(scores)), np.zeros(len(scores))
        by_chance = 0.0
        for problem, (c, some) in enumerate(zip(candidates, scores, strict=True)):
            for one, correct in zip(some, c.correct, strict=True):
                steps, lowest = len(one.step_rewards), one.lowest_step
                if correct != kind or steps < 2 or lowest is None:
                    continue
                bins = [_bin(step, steps) for step in range(steps)]
                positions[bins[lowest]] += 1
                np.add.at(even, bins, 1 / steps)
                last[problem] += lowest == steps - 1
                total[problem] += 1
                by_chance += 1 / steps
        count = int(total.sum())
        found[name] = {
            "responses": count,
            "positions": (positions / max(count, 1)).tolist(),
            "even": (even / max(count, 1)).tolist(),
            "last": finite(clustered_ratio(last, total, resamples, seed)),
            "last_by_chance": by_chance / count if count else None,
        }
    found["left_out"] = sum(map(len, scores)) - found["right"]["responses"] - found["wrong"]["responses"]
    return found


def last_step_share(scores: Sequence[Sequence[StepScores]], resamples: int, seed: int) -> dict[str, Any]:
    """The last step's share of the sum of |step reward|, over the responses with at least two scored steps.

    `even` is the share if all steps of a response had the same |reward|. Intervals are 95 % percentile bootstrap over
    problems. Empty for probabilities, whose distance from 0 means nothing.
    """
    sizes = [
        [np.abs(one.step_rewards) for one in some if len(one.step_rewards) > 1 and one.kind == "log_ratio"]
        for some in scores
    ]
    last = [sum(steps[-1] for steps in some) for some in sizes]
    total = [sum(steps.sum() for steps in some) for some in sizes]
    if not sum(total):
        return {}
    even = sum(steps.mean() for some in sizes for steps in some) / sum(total)
    return {**finite(clustered_ratio(last, total, resamples, seed)), "even": float(even)}


def _bin(step: int, steps: int) -> int:
    return min(step * POSITIONS // (steps - 1), POSITIONS - 1)
