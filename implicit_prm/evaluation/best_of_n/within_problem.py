"""Does a score rank right responses above wrong ones to the same problem? AUROC per problem, averaged over problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.statistics import Interval, auroc, bootstrap_mean, finite


def within_problem_auroc(
    candidates: Sequence[Candidates], rankings: Mapping[str, Sequence[np.ndarray]], resamples: int, seed: int
) -> dict[str, Any]:
    """Mean AUROC of each ranking against correctness within a problem; 0.5 is chance.

    It uses every pair of a right and a wrong response, not the best-scored response alone, and is not affected by how
    hard a problem is. Left out are responses that cannot be picked (cut off, or without a score), and problems without
    a right or without a wrong response. Intervals are 95 % percentile bootstrap over problems.

    Args:
        candidates: of every problem.
        rankings: name -> of every problem, [K] scores.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.

    Returns:
        name -> value, low and high (None without any problem of both kinds), and `problems`, the number averaged over.
    """
    found = {}
    for name, values in rankings.items():
        by_problem = []
        for c, scores in zip(candidates, values, strict=True):
            usable = c.valid & np.isfinite(scores)
            one = auroc(scores[usable & c.correct], scores[usable & ~c.correct])
            if not np.isnan(one):
                by_problem.append(one)
        nothing = Interval(float("nan"), float("nan"), float("nan"))
        mean = bootstrap_mean(by_problem, resamples, seed) if by_problem else nothing
        found[name] = {**finite(mean), "problems": len(by_problem)}
    return found
