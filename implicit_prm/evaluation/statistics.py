"""Bootstrap intervals over problems, and the area under the ROC curve.

Responses to one problem, and their steps, are correlated, so the bootstrap always resamples whole problems. All
intervals are two-sided 95 % percentile intervals (Efron & Tibshirani 1993, ch. 13) and reproducible by their seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from implicit_prm.types import ImplicitPRMError

_CHUNK_CELLS = 2_000_000  # elements of the largest array that one chunk of resamples may take


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; all three are NaN if the value is undefined."""

    value: float
    low: float
    high: float


def finite(figure: Interval | Mapping[str, float]) -> dict[str, float | None]:
    """The interval with None in place of NaN, as JSON needs it."""
    values = asdict(figure) if isinstance(figure, Interval) else figure
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def bootstrap_mean(values: ArrayLike, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean of one value per problem.

    Args:
        values: [P] finite floats.
        resamples: bootstrap samples of P problems.
        seed: seed of the resampling.
    """
    return bootstrap_means(_vector(values, "values")[:, None], resamples, seed)[0]


def bootstrap_means(values: NDArray[np.float64], resamples: int = 10_000, seed: int = 0) -> list[Interval]:
    """`bootstrap_mean` of every column, from the same draws.

    Args:
        values: [P, C] finite floats.
        resamples: bootstrap samples of P problems.
        seed: seed of the resampling.
    """
    problems = len(values)
    counts = resampled_counts(problems, resamples, seed, problems)
    means = np.concatenate([*(some @ values / problems for some in counts), np.empty((0, values.shape[1]))])
    return [percentile_interval(float(column.mean()), [mean]) for column, mean in zip(values.T, means.T, strict=True)]


def clustered_ratio(numerators: ArrayLike, denominators: ArrayLike, resamples: int = 10_000, seed: int = 0) -> Interval:
    """sum(numerators) / sum(denominators) over problems: a share among items, of which each problem has several.

    Args:
        numerators: [P] finite floats.
        denominators: [P] finite floats >= 0. If all are 0, the ratio is NaN.
        resamples: bootstrap samples of P problems; samples whose denominators are all 0 are left out.
        seed: seed of the resampling.
    """
    above, below = _vector(numerators, "numerators"), _vector(denominators, "denominators")
    if len(above) != len(below) or (below < 0).any():
        raise ImplicitPRMError("expected as many denominators as numerators, none of them negative")
    return clustered_ratios(above[:, None], below[:, None], resamples, seed)[0]


def clustered_ratios(
    numerators: NDArray[np.float64], denominators: NDArray[np.float64], resamples: int = 10_000, seed: int = 0
) -> list[Interval]:
    """`clustered_ratio` of each of M columns, all from the same resamples.

    Args:
        numerators: [P, M] finite floats.
        denominators: [P, M] finite floats >= 0.
        resamples: as there.
        seed: as there.
    """
    problems, columns = numerators.shape
    counts = resampled_counts(problems, resamples, seed, problems)
    drawn = [_ratio(count @ numerators, count @ denominators) for count in counts]
    resampled = np.concatenate([*drawn, np.empty((0, columns))])
    values = _ratio(numerators.sum(axis=0), denominators.sum(axis=0))
    return [percentile_interval(float(values[column]), [resampled[:, column]]) for column in range(columns)]


def auroc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Probability that a positive scores higher than a negative, ties counting half (Mann & Whitney 1947).

    Args:
        positive: scores of positives, infinities included.
        negative: scores of negatives. Takes n log n time.

    Returns:
        0 to 1, or NaN if either side is empty.
    """
    return clustered_auroc([positive], [negative], resamples=0).value


def clustered_auroc(
    positives: Sequence[ArrayLike], negatives: Sequence[ArrayLike], resamples: int = 1_000, seed: int = 0
) -> Interval:
    """`auroc` of all positives against all negatives, across problems too, with a bootstrap interval over problems.

    Args:
        positives: for each of P problems its positives; may be empty.
        negatives: for each of P problems its negatives; may be empty.
        resamples: bootstrap samples of P problems; samples without positives or negatives are left out.
        seed: seed of the resampling.
    """
    value, resampled = auroc_resamples(positives, negatives, resamples, seed)
    return percentile_interval(value, [resampled])


def auroc_resamples(
    positives: Sequence[ArrayLike], negatives: Sequence[ArrayLike], resamples: int = 1_000, seed: int = 0
) -> tuple[float, NDArray[np.float64]]:
    """The value of `clustered_auroc`, and [resamples] that of each resample: NaN if it has only one side.

    The draws depend on the number of problems and the seed alone, so the resamples of two scorers are paired.
    """
    if len(positives) != len(negatives) or not len(positives):
        raise ImplicitPRMError(
            f"expected positives and negatives of the same problems, at least one, got {len(positives)} and "
            f"{len(negatives)} problems"
        )
    lengths = [np.size(side) for side in (*positives, *negatives)]
    scores = np.concatenate([np.ravel(np.asarray(side, dtype=np.float64)) for side in (*positives, *negatives)])
    if np.isnan(scores).any():
        raise ImplicitPRMError("scores must not be NaN")
    problem = np.repeat(np.tile(np.arange(len(positives)), 2), lengths)
    is_positive = np.arange(len(scores)) < sum(lengths[: len(positives)])

    order = np.argsort(scores)
    problem, is_positive, scores = problem[order], is_positive[order], scores[order]
    tie_starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]])[: len(scores)])

    def area(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """[r, P] how often each problem was drawn -> [r]"""
        if not len(scores):
            return np.full(len(counts), np.nan)
        weight = counts[:, problem].astype(np.float64)
        above = np.add.reduceat(weight * is_positive, tie_starts, axis=1)
        below = np.add.reduceat(weight * ~is_positive, tie_starts, axis=1)
        wins = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
        return _ratio(wins, above.sum(axis=1) * below.sum(axis=1))

    once = np.ones((1, len(positives)), dtype=np.int64)
    cells = max(len(scores), len(positives))
    drawn = [area(counts) for counts in resampled_counts(len(positives), resamples, seed, cells)]
    return float(area(once)[0]), np.concatenate([*drawn, np.empty(0)])


def resampled_counts(problems: int, resamples: int, seed: int, cells: int) -> Iterator[NDArray[np.int64]]:
    """Yield chunks of [r, P]: how often each problem occurs in P draws with replacement.

    Args:
        problems: P.
        resamples: total number of rows.
        seed: seed of the draws.
        cells: array elements that one resample takes, which bounds the chunks.
    """
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_CELLS // cells) if cells else 1
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(problems, size=(rows, problems)) + np.arange(rows)[:, None] * problems
        yield np.bincount(drawn.ravel(), minlength=rows * problems).reshape(rows, problems)


def _ratio(above: ArrayLike, below: ArrayLike) -> NDArray[np.float64]:
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below != 0)


def percentile_interval(value: float, resampled: list[NDArray[np.float64]]) -> Interval:
    """The value with the 95 % percentile interval of its resamples, of which NaN are left out."""
    figures = np.concatenate(resampled) if resampled else np.array([])
    figures = figures[~np.isnan(figures)]
    if np.isnan(value) or not len(figures):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(figures, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def _vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ImplicitPRMError(f"expected {name} to hold a finite number for each problem, at least one")
    return array
