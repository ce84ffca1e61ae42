"""The first step below a threshold is predicted to be wrong: fit the threshold, and measure it on other rows.

Each solution is judged correctly by an interval of thresholds, its *window* (low, high]. For a solution without an
error these are the thresholds up to its lowest value; for one whose first wrong step has value v, those above v and up
to the lowest value before it. One sweep over the ends of all windows gives the best threshold exactly, for many
bootstrap resamples at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_CHUNK_CELLS = 2_000_000  # elements of the largest array of one sweep


@dataclass(frozen=True)
class Windows:
    """Windows of n solutions. A window with low >= high is empty: no threshold judges the solution correctly."""

    low: Floats  # [n]
    high: Floats  # [n]
    erroneous: NDArray[np.bool_]  # [n]

    def __len__(self) -> int:
        return len(self.low)

    def take(self, rows: NDArray[np.bool_]) -> Windows:
        """The solutions where `rows` [n] is true."""
        return Windows(self.low[rows], self.high[rows], self.erroneous[rows])

    def hits(self, thresholds: Floats) -> NDArray[np.bool_]:
        """Whether each solution is judged correctly. `thresholds` broadcasts against [n]."""
        return (self.low < thresholds) & (thresholds <= self.high)


def predict(values: Sequence[float], threshold: float) -> int:
    """Index of the first step whose value is below the threshold, -1 if there is none (arXiv 2412.06559)."""
    return next((place for place, value in enumerate(values) if value < threshold), -1)


def windows(values: Sequence[Sequence[float]], labels: Sequence[int]) -> Windows:
    """The windows of n solutions.

    Args:
        values: step values of each solution; a solution without values (not scored) gets an empty window.
        labels: index of the first wrong step of each solution, -1 for none.
    """
    low, high = np.full(len(labels), np.inf), np.full(len(labels), -np.inf)
    for row, (steps, label) in enumerate(zip(values, labels, strict=True)):
        if len(steps):
            before = steps if label == -1 else steps[:label]
            low[row] = -np.inf if label == -1 else steps[label]
            high[row] = min(before, default=np.inf)
    return Windows(low, high, np.array(labels) != -1)


def f1(erroneous: Floats, correct: Floats) -> Floats:
    """Harmonic mean of the accuracies on erroneous and on correct solutions; 0 if both are, NaN if either is."""
    total = erroneous + correct
    return np.divide(2 * erroneous * correct, total, out=np.where(np.isnan(total), np.nan, 0.0), where=total > 0)


def best_thresholds(some: Windows, weights: Floats) -> Floats:
    """The threshold with the highest F1, in closed form, for each of R weightings of the solutions.

    F1 changes only at the ends of windows, so every distinct threshold is tried. Of equal maxima, the lowest interval
    of thresholds is taken, and its middle. If no threshold has an F1 above 0, the lowest end is taken, which predicts
    (almost) no wrong step.

    Args:
        some: the solutions to fit on.
        weights: [R, n] how often each solution counts: ones, or the counts of bootstrap resamples.

    Returns:
        [R] thresholds; NaN if a weighting has no erroneous or no correct solution, or nothing was scored.
    """
    ends = np.unique(np.concatenate([some.low, some.high]))
    ends = ends[np.isfinite(ends)]
    if not len(ends):
        return np.full(len(weights), np.nan)
    chunk = max(1, _CHUNK_CELLS // (len(ends) + len(some)))
    parts = [_sweep(some, weights[start : start + chunk], ends) for start in range(0, len(weights), chunk)]
    return np.concatenate(parts)


def accuracy_curve(some: Windows) -> tuple[Floats, Floats]:
    """Accuracy on erroneous and on correct solutions for every distinct threshold, in increasing order: two [J]."""
    ends = np.unique(np.concatenate([some.low, some.high]))
    ends = ends[np.isfinite(ends)]
    erroneous, correct = _accuracies(some, np.ones((1, len(some))), ends)
    return erroneous[0], correct[0]


def cross_fit(some: Windows, folds: NDArray[np.int64], weights: Floats) -> Floats:
    """[R, n] thresholds, each fitted on the solutions of all other folds.

    Args:
        some: windows of all solutions.
        folds: [n] fold of each solution.
        weights: [R, n] how often each solution counts.
    """
    thresholds = np.full((len(weights), len(some)), np.nan)
    for fold in np.unique(folds):
        others = folds != fold
        thresholds[:, ~others] = best_thresholds(some.take(others), weights[:, others])[:, None]
    return thresholds


def accuracies(hits: Floats, erroneous: NDArray[np.bool_], weights: Floats) -> tuple[Floats, Floats]:
    """Accuracy on erroneous and on correct solutions under each weighting: two [R], NaN without such solutions.

    Args:
        hits: [n] or [R, n] probability that each solution is judged correctly; NaN makes the weighting NaN.
        erroneous: [n] whether each solution has a wrong step.
        weights: [R, n] how often each solution counts.
    """
    found = weights * hits
    return _share(found, weights, erroneous), _share(found, weights, ~erroneous)


def _share(hits: Floats, weights: Floats, side: NDArray[np.bool_]) -> Floats:
    total = weights[:, side].sum(axis=1)
    return np.divide(hits[:, side].sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)


def _accuracies(some: Windows, weights: Floats, ends: Floats) -> tuple[Floats, Floats]:
    """Two [R, J]: both accuracies for thresholds in (-inf, ends[0]], (ends[0], ends[1]], ..., (ends[-1], inf)."""
    start = np.where(np.isneginf(some.low), 0, np.searchsorted(ends, some.low) + 1)
    stop = np.searchsorted(ends, some.high) + 1  # inf is after the last end
    sides = []
    for side in (some.erroneous, ~some.erroneous):
        use = side & (some.low < some.high)
        change = np.zeros((len(weights), len(ends) + 2))
        _add(change, start[use], weights[:, use])
        _add(change, stop[use], -weights[:, use])
        total = weights[:, side].sum(axis=1, keepdims=True)
        right = change.cumsum(axis=1)[:, :-1]
        sides.append(np.divide(right, total, out=np.full(right.shape, np.nan), where=total > 0))
    return sides[0], sides[1]


def _add(target: Floats, columns: NDArray[np.int64], values: Floats) -> None:
    """target[:, columns] += values; columns may repeat."""
    if len(columns):
        order = np.argsort(columns, kind="stable")
        firsts = np.flatnonzero(np.diff(columns[order], prepend=-1))
        target[:, columns[order][firsts]] += np.add.reduceat(values[:, order], firsts, axis=1)


def _sweep(some: Windows, weights: Floats, ends: Floats) -> Floats:
    scores = f1(*_accuracies(some, weights, ends))
    known = ~np.isnan(scores[:, 0])
    best = np.nan_to_num(scores).max(axis=1, keepdims=True)
    first = scores.argmax(axis=1)
    # End of the interval of equal F1 that starts at `first`; an F1 above 0 is never reached at the open ends.
    lower = (scores != best) & (np.arange(scores.shape[1]) > first[:, None])
    last = np.where(lower.any(axis=1), lower.argmax(axis=1), scores.shape[1]) - 1
    useless = best[:, 0] == 0
    low, high = ends[np.maximum(first, 1) - 1], ends[np.minimum(last, len(ends) - 1)]
    middle = low + (high - low) / 2
    chosen = np.where(middle > low, middle, high)
    return np.where(known, np.where(useless, ends[0], chosen), np.nan)
