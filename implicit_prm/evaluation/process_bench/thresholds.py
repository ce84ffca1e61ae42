"""The first step below a threshold is called wrong: which threshold, and how well it does on rows it has not seen.

For one solution the verdict is right for an interval of thresholds, its *window* (low, high]. A solution without an
error is judged rightly by thresholds up to its lowest value; one whose first wrong step has value v by those above v
and up to the lowest value before it. Everything here follows from the windows: the best threshold by one sweep over
their ends, exactly, and that for many bootstrap resamples at once.
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
    """n solutions as a threshold sees them. A window with low >= high is empty: no threshold judges it rightly."""

    low: Floats  # [n]
    high: Floats  # [n]
    erroneous: NDArray[np.bool_]  # [n]

    def __len__(self) -> int:
        return len(self.low)

    def take(self, rows: NDArray[np.bool_]) -> Windows:
        """The solutions where `rows` [n] is true."""
        return Windows(self.low[rows], self.high[rows], self.erroneous[rows])

    def hits(self, thresholds: Floats) -> NDArray[np.bool_]:
        """Is each solution judged rightly? `thresholds` broadcasts against [n]."""
        return (self.low < thresholds) & (thresholds <= self.high)


def predict(values: Sequence[float], threshold: float) -> int:
    """Index of the first step whose value is below the threshold, -1 if there is none (arXiv 2412.06559)."""
    return next((place for place, value in enumerate(values) if value < threshold), -1)


def windows(values: Sequence[Sequence[float]], labels: Sequence[int]) -> Windows:
    """The windows of n solutions.

    Args:
        values: of each solution its steps' values; none (it was not scored) gives an empty window.
        labels: of each solution the index of the first wrong step, -1 for none.
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

    F1 changes only at the ends of windows, so every distinct threshold is tried. Of equal maxima the lowest stretch of
    thresholds is taken, and of that the middle. Where no threshold has an F1 above 0, the lowest end is taken, which
    calls (almost) nothing wrong.

    Args:
        some: the solutions to fit on, and no others.
        weights: [R, n] how often each solution counts: all ones, or what a bootstrap drew.

    Returns:
        [R], NaN where a weighting has no erroneous or no correct solution, or nothing was scored.
    """
    ends = np.unique(np.concatenate([some.low, some.high]))
    ends = ends[np.isfinite(ends)]
    if not len(ends):
        return np.full(len(weights), np.nan)
    chunk = max(1, _CHUNK_CELLS // (len(ends) + len(some)))
    parts = [_sweep(some, weights[start : start + chunk], ends) for start in range(0, len(weights), chunk)]
    return np.concatenate(parts)


def accuracy_curve(some: Windows) -> tuple[Floats, Floats]:
    """Accuracy on erroneous and on correct solutions for every distinct threshold, the lowest first: two [J]."""
    ends = np.unique(np.concatenate([some.low, some.high]))
    ends = ends[np.isfinite(ends)]
    erroneous, correct = _accuracies(some, np.ones((1, len(some))), ends)
    return erroneous[0], correct[0]


def cross_fit(some: Windows, folds: NDArray[np.int64], weights: Floats) -> Floats:
    """[R, n] thresholds: each solution's is fitted on the solutions of all folds but its own (`folds`: [n])."""
    thresholds = np.full((len(weights), len(some)), np.nan)
    for fold in np.unique(folds):
        others = folds != fold
        thresholds[:, ~others] = best_thresholds(some.take(others), weights[:, others])[:, None]
    return thresholds


def accuracies(hits: Floats, erroneous: NDArray[np.bool_], weights: Floats) -> tuple[Floats, Floats]:
    """Accuracy on erroneous and on correct solutions under each weighting, NaN where there is none: two [R].

    Args:
        hits: [n] or [R, n] how surely each solution is judged rightly, 0 to 1; NaN makes the weighting NaN.
        erroneous: [n].
        weights: [R, n].
    """
    found = weights * hits
    return _share(found, weights, erroneous), _share(found, weights, ~erroneous)


def _share(hits: Floats, weights: Floats, side: NDArray[np.bool_]) -> Floats:
    total = weights[:, side].sum(axis=1)
    return np.divide(hits[:, side].sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)


def _accuracies(some: Windows, weights: Floats, ends: Floats) -> tuple[Floats, Floats]:
    """Two [R, J]: both accuracies for thresholds in (-inf, ends[0]], (ends[0], ends[1]], ..., (ends[-1], inf)."""
    start = np.where(np.isneginf(some.low), 0, np.searchsorted(ends, some.low) + 1)
    stop = np.searchsorted(ends, some.high) + 1  # inf lies behind the last end
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
    """target[:, columns] += values, where columns may repeat."""
    if len(columns):
        order = np.argsort(columns, kind="stable")
        firsts = np.flatnonzero(np.diff(columns[order], prepend=-1))
        target[:, columns[order][firsts]] += np.add.reduceat(values[:, order], firsts, axis=1)


def _sweep(some: Windows, weights: Floats, ends: Floats) -> Floats:
    scores = f1(*_accuracies(some, weights, ends))
    known = ~np.isnan(scores[:, 0])
    best = np.nan_to_num(scores).max(axis=1, keepdims=True)
    first = scores.argmax(axis=1)
    # Where the stretch of equals that begins at `first` ends; an F1 above 0 is never reached at the open ends.
    behind = (scores != best) & (np.arange(scores.shape[1]) > first[:, None])
    last = np.where(behind.any(axis=1), behind.argmax(axis=1), scores.shape[1]) - 1
    useless = best[:, 0] == 0
    low, high = ends[np.maximum(first, 1) - 1], ends[np.minimum(last, len(ends) - 1)]
    middle = low + (high - low) / 2
    chosen = np.where(middle > low, middle, high)
    return np.where(known, np.where(useless, ends[0], chosen), np.nan)
