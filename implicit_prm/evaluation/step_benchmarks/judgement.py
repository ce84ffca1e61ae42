"""Judge every step by a threshold: below it, a step is wrong. The threshold is fitted on other problems.

R are weightings of the solutions (ones, then the counts of bootstrap resamples), n solutions, J thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Metric = Callable[["Counts"], Floats]
_MOST_THRESHOLDS = 500


@dataclass(frozen=True)
class Counts:
    """Steps by label and judgement; a right step is a positive. Arrays of one shape."""

    tp: Floats
    fp: Floats
    tn: Floats
    fn: Floats

    def sums(self, weights: Floats, rows: NDArray[np.bool_]) -> Counts:
        """[R] weighted sums over the solutions where `rows` [n] is true; the counts are [n] or [R, n]."""
        return Counts(*((weights * one)[:, rows].sum(axis=1) for one in (self.tp, self.fp, self.tn, self.fn)))


def prm_score(counts: Counts) -> Floats:
    """PRMScore of PRMBench: the mean of the F1 of right steps and of wrong steps (arXiv 2501.03124, Section 4.1).

    Without any wrong step, as in the class multi_solutions, it is the F1 of right steps alone, as on the official
    board; NaN without any step.
    """
    right, wrong = f1_right(counts), f1_wrong(counts)
    return np.where(np.isnan(wrong), right, np.where(np.isnan(right), wrong, (right + wrong) / 2))


def f1_right(counts: Counts) -> Floats:
    """F1 of the right steps; NaN without any."""
    return _ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn, counts.tp + counts.fn)


def f1_wrong(counts: Counts) -> Floats:
    """F1 of the wrong steps, the negative F1; NaN without any."""
    return _ratio(2 * counts.tn, 2 * counts.tn + counts.fp + counts.fn, counts.tn + counts.fp)


def true_rates(counts: Counts) -> tuple[Floats, Floats]:
    """Shares of the right and of the wrong steps that are judged as labelled; NaN without any."""
    right, wrong = counts.tp + counts.fn, counts.tn + counts.fp
    return _ratio(counts.tp, right, right), _ratio(counts.tn, wrong, wrong)


def balanced_f1(counts: Counts) -> Floats:
    """Balanced F1 of Hard2Verify: the harmonic mean of both true rates (arXiv 2510.13744); NaN if either is."""
    right, wrong = true_rates(counts)
    total = right + wrong
    return np.divide(2 * right * wrong, total, out=np.where(np.isnan(total), np.nan, 0.0), where=total > 0)


def counts_at(values: Sequence[Sequence[float]], labels: Sequence[Sequence[bool]], thresholds: Floats) -> Counts:
    """[n, J] counts of every solution at every threshold.

    Args:
        values: step values of each solution. Without any (not scored), every step counts as judged wrongly.
        labels: whether each step is right.
        thresholds: [J] in increasing order.
    """
    rows = []
    for some, right in zip(values, labels, strict=True):
        truth = np.array(right, dtype=bool)
        if len(some):
            kept = np.asarray(some, dtype=np.float64)[:, None] >= thresholds
            tp, fp = kept[truth].sum(axis=0), kept[~truth].sum(axis=0)
        else:
            tp, fp = np.zeros(len(thresholds)), np.full(len(thresholds), (~truth).sum())
        rows.append((tp, fp, (~truth).sum() - fp, truth.sum() - tp))
    return Counts(*(np.array([row[side] for row in rows], dtype=np.float64) for side in range(4)))


def candidate_thresholds(values: Sequence[Sequence[float]]) -> Floats:
    """At most 500 quantiles of the step values, in increasing order."""
    pooled = np.concatenate([np.asarray(some, dtype=np.float64) for some in values])
    return np.unique(np.quantile(pooled, np.linspace(0, 1, _MOST_THRESHOLDS), method="higher"))


def cross_fitted(counts: Counts, folds: NDArray[np.int64], weights: Floats, metric: Metric) -> NDArray[np.int64]:
    """[R, n] place of the threshold that judges each solution: the best by `metric` on all other folds.

    Of equal maxima, the lowest threshold is taken. A weighting for which the metric is undefined takes the lowest one.

    Args:
        counts: [n, J] at every threshold.
        folds: [n] fold of each solution.
        weights: [R, n] how often each solution counts.
        metric: of counts of any shape.
    """
    sides = (counts.tp, counts.fp, counts.tn, counts.fn)
    total = [weights @ side for side in sides]
    chosen = np.zeros(weights.shape, dtype=np.int64)
    for fold in np.unique(folds):
        own = folds == fold
        others = Counts(*(whole - weights[:, own] @ side[own] for whole, side in zip(total, sides, strict=True)))
        chosen[:, own] = np.nan_to_num(metric(others), nan=-1.0).argmax(axis=1)[:, None]
    return chosen


def taken(counts: Counts, chosen: NDArray[np.int64]) -> Counts:
    """[R, n] counts of every solution at its threshold."""
    solution = np.arange(chosen.shape[1])
    return Counts(*(side[solution, chosen] for side in (counts.tp, counts.fp, counts.tn, counts.fn)))


def _ratio(above: Floats, below: Floats, defined: Floats) -> Floats:
    """above / below where there is anything of that label; NaN elsewhere."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=(defined > 0) & (below > 0))
