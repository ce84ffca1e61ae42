"""How far a score follows the length of the response, and what is left of it without that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from implicit_prm.evaluation.best_of_n.within_problem import Rankings, problem_means
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.statistics import finite, percentile_interval, resampled_counts
from implicit_prm.types import StepScores

MATCHED = 0.1  # relative difference of lengths that counts as equal


def lengths_of(scores: Sequence[Sequence[StepScores]]) -> tuple[list[NDArray[np.float64]], str]:
    """[K] length of every response, for every problem, and the unit: tokens if all are known, else characters."""
    if all(one.step_tokens is not None for some in scores for one in some):
        return [np.array([sum(one.step_tokens or []) for one in some], dtype=np.float64) for some in scores], "tokens"
    return [np.array([len(one.response) for one in some], dtype=np.float64) for some in scores], "characters"


def length_effects(
    candidates: Sequence[Candidates],
    rankings: Rankings,
    lengths: Sequence[NDArray[np.float64]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Correlation of each ranking with length, and its AUROC among responses of about the same length.

    Left out are responses that cannot be picked (cut off, or without a score). Intervals are 95 % percentile bootstrap
    over problems.

    Args:
        candidates: of every problem.
        rankings: name -> of every problem, [K] scores.
        lengths: of every problem, [K].
        resamples: number of bootstrap samples.
        seed: seed of the resampling.

    Returns:
        name -> `pooled`, the rank correlation over all responses; `within_problems`, its mean over problems;
        `auroc_matched`, the within-problem AUROC over pairs whose lengths differ by at most 10 %.
    """
    pooled: dict[str, Any] = {}
    columns: dict[tuple[str, str], list[float]] = {}
    for name, values in rankings.items():
        use = [c.valid & np.isfinite(v) for c, v in zip(candidates, values, strict=True)]
        kept = [v[u] for v, u in zip(values, use, strict=True)]
        long = [length[u] for length, u in zip(lengths, use, strict=True)]
        right = [c.correct[u] for c, u in zip(candidates, use, strict=True)]
        pooled[name] = pooled_rank_correlation(kept, long, resamples, seed)
        columns[name, "within_problems"] = [rank_correlation(*one) for one in zip(kept, long, strict=True)]
        columns[name, "auroc_matched"] = [matched_auroc(*one) for one in zip(kept, right, long, strict=True)]
    means = problem_means(columns, resamples, seed)
    keys = ("within_problems", "auroc_matched")
    return {name: {"pooled": pooled[name], **{key: means[name, key] for key in keys}} for name in rankings}


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's correlation, ties with their mean rank; NaN if either is constant."""
    x, y = (ranks(values) - (len(values) - 1) / 2 for values in (a, b))
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale else float("nan")


def pooled_rank_correlation(
    values: Sequence[NDArray[np.float64]], lengths: Sequence[NDArray[np.float64]], resamples: int, seed: int
) -> dict[str, float | None]:
    """Spearman's correlation over the responses to all problems, with a bootstrap interval over problems.

    Ranks are those among all responses, in every resample.
    """
    sizes = [len(some) for some in values]
    if not sum(sizes):
        return {"value": None, "low": None, "high": None}
    x, y = ranks(np.concatenate(values)), ranks(np.concatenate(lengths))
    problem = np.repeat(np.arange(len(sizes)), sizes)
    moments = np.array([np.bincount(problem, m, len(sizes)) for m in (np.ones_like(x), x, y, x * x, y * y, x * y)])
    counts = resampled_counts(len(sizes), resamples, seed, len(sizes))
    resampled = [_correlation(drawn @ moments.T) for drawn in counts]
    return finite(percentile_interval(float(_correlation(moments.sum(axis=1)[None])[0]), resampled))


def _correlation(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """[r, 6] sums of 1, x, y, x², y², xy -> [r] Pearson correlations, NaN where x or y is constant."""
    n, x, y, xx, yy, xy = sums.T
    scale = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
    return np.divide(n * xy - x * y, scale, out=np.full(len(n), np.nan), where=scale > 0)


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank of each value from 0 up; equal values share their mean rank."""
    _, tie, size = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(size) - (size + 1) / 2)[tie]


def matched_auroc(values: NDArray[np.float64], correct: NDArray[np.bool_], lengths: NDArray[np.float64]) -> float:
    """AUROC over the pairs of a right and a wrong response of about the same length; NaN without such a pair."""
    right, wrong = values[correct][:, None], values[~correct][None]
    matched = same_length(lengths[correct], lengths[~correct])
    wins = (right > wrong) + 0.5 * (right == wrong)
    return float(wins[matched].mean()) if matched.any() else float("nan")


def same_length(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[len(a), len(b)] whether two lengths differ by at most 10 % of the longer."""
    one, other = a[:, None], b[None]
    return np.abs(one - other) <= MATCHED * np.maximum(one, other)


def without_length(
    candidates: Sequence[Candidates], values: Sequence[NDArray[np.float64]], lengths: Sequence[NDArray[np.float64]]
) -> list[NDArray[np.float64]]:
    """The scores minus their linear trend in length within problems, one slope for all problems."""
    above = below = 0.0
    for c, v, length in zip(candidates, values, lengths, strict=True):
        use = c.valid & np.isfinite(v)
        if use.any():
            centred = length[use] - length[use].mean()
            above, below = above + centred @ v[use], below + centred @ centred
    slope = above / below if below else 0.0
    return [v - slope * length for v, length in zip(values, lengths, strict=True)]
