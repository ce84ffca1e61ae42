"""Share of right responses by score, in bins with equally many responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.statistics import clustered_ratio, finite


def reliability(
    candidates: Sequence[Candidates], values: Sequence[np.ndarray], resamples: int, seed: int, bins: int = 10
) -> dict[str, Any]:
    """Share of right responses in bins of the score, over all problems.

    Bins are quantiles. Equal scores share a bin, so there may be fewer bins, of different sizes. Responses that cannot
    be picked (cut off, or without a scored step) are in no bin; `left_out` counts them. Intervals are 95 % percentile
    bootstrap over problems: Wilson intervals would treat responses to the same problem as independent.

    Args:
        candidates: of every problem.
        values: of every problem, [K] the scores that responses are picked by.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.
        bins: number of bins.
    """
    usable = [c.valid & np.isfinite(v) for c, v in zip(candidates, values, strict=True)]
    pooled = np.concatenate([v[use] for v, use in zip(values, usable, strict=True)])
    left_out = sum(map(len, usable)) - len(pooled)
    if not len(pooled):
        return {"bins": [], "left_out": left_out}
    inner = np.unique(np.quantile(pooled, np.arange(1, bins) / bins, method="higher"))
    inner = inner[inner > pooled.min()]
    count = len(inner) + 1
    right, total = np.zeros((count, len(values))), np.zeros((count, len(values)))
    for problem, (c, v, use) in enumerate(zip(candidates, values, usable, strict=True)):
        place = np.searchsorted(inner, v[use], side="right")
        total[:, problem] = np.bincount(place, minlength=count)
        right[:, problem] = np.bincount(place, weights=c.correct[use], minlength=count)
    edges = [pooled.min(), *inner, pooled.max()]
    return {
        "bins": [
            {
                "low": float(edges[number]),
                "high": float(edges[number + 1]),
                "responses": int(total[number].sum()),
                "right": finite(clustered_ratio(right[number], total[number], resamples, seed)),
            }
            for number in range(count)
        ],
        "left_out": left_out,
    }
