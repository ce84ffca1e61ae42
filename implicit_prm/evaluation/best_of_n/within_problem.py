"""Does a score rank right responses above wrong ones to the same problem? AUROC per problem, averaged over problems."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.statistics import auroc, clustered_ratios, finite

K = TypeVar("K", bound=Hashable)
Rankings = Mapping[str, Sequence[np.ndarray]]  # name -> of every problem, [K] scores


def within_problem_auroc(
    candidates: Sequence[Candidates], rankings: Rankings, resamples: int, seed: int
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
        The ranking that comes first is compared with the others: `difference`, on the problems that both have.
    """
    by_problem = {name: problem_aurocs(candidates, values) for name, values in rankings.items()}
    (first, best), *others = by_problem.items()
    found = problem_means(by_problem, resamples, seed)
    differences = problem_means({name: best - values for name, values in others}, resamples, seed)
    return {first: found.pop(first)} | {name: {**found[name], "difference": differences[name]} for name in found}


def problem_aurocs(candidates: Sequence[Candidates], values: Sequence[np.ndarray]) -> np.ndarray:
    """[P] AUROC of right against wrong responses to each problem; NaN for a problem without one of the two."""
    usable = [c.valid & np.isfinite(v) for c, v in zip(candidates, values, strict=True)]
    return np.array(
        [auroc(v[use & c.correct], v[use & ~c.correct]) for c, v, use in zip(candidates, values, usable, strict=True)]
    )


def problem_means(
    columns: Mapping[K, Sequence[float] | np.ndarray], resamples: int, seed: int
) -> dict[K, dict[str, Any]]:
    """Means over problems with their intervals.

    Args:
        columns: name -> [P] a value for each problem, NaN for a problem that has none.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.

    Returns:
        name -> value, low and high (None without any value), and `problems`, the number averaged over.
    """
    if not columns:
        return {}
    values = np.array([np.asarray(column, dtype=np.float64) for column in columns.values()]).T
    known = ~np.isnan(values)
    means = clustered_ratios(np.where(known, values, 0.0), known.astype(np.float64), resamples, seed)
    return {
        name: {**finite(mean), "problems": int(problems)}
        for name, mean, problems in zip(columns, means, known.sum(axis=0), strict=True)
    }
