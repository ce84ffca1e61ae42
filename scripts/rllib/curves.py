"""What the runs of an arm have logged, and the measures made of it.

Figures are one value per seed. Intervals are 95 % bootstraps over seeds, with the same draws for all arms, so that
differences are paired by seed. With one seed their ends are NaN. They leave out the choice of the problems.

Percentile intervals of a few values are too narrow: those of five normal ones cover their mean in about 85 % of all
cases instead of 95 %. So the percentiles are expanded (Hesterberg 2015, "What Teachers Should Know About the
Bootstrap"): an interval of a mean is then about as wide as Student's. Up to four seeds it is the range of the seeds,
and still too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from implicit_prm.evaluation.statistics import Interval
from implicit_prm.utils.io import JsonLines
from rllib.arms import ROLLOUTS_PER_STEP

RESAMPLES = 10_000
ACCURACY = "rewards/correct/mean"
FINAL = 3  # evaluations whose mean is the final accuracy

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    """The logs of an arm.

    Args:
        logs: the rows of each seed's log.
    """

    logs: Sequence[Sequence[dict[str, Any]]]

    @classmethod
    def read(cls, folders: Sequence[Path]) -> Arm:
        """The logs of an arm, from a folder per seed."""
        return cls([list(JsonLines(folder / "log.jsonl").rows()) for folder in folders])

    @cached_property
    def rollouts(self) -> Floats:
        """[E] rollouts trained on before each evaluation."""
        return np.array([row["step"] for row in _evaluations(self.logs[0])], dtype=float) * ROLLOUTS_PER_STEP

    @cached_property
    def accuracy(self) -> Floats:
        """[seeds, E] dev pass@1."""
        return np.array([[row[f"eval_{ACCURACY}"] for row in _evaluations(log)] for log in self.logs])

    @property
    def final(self) -> Floats:
        """[seeds] mean of the last evaluations."""
        return self.accuracy[:, -FINAL:].mean(1)

    @property
    def area(self) -> Floats:
        """[seeds] mean dev pass@1 over the run: the area under its curve, divided by the rollouts."""
        return areas(self.rollouts, self.accuracy)

    def logged(self, name: str) -> Floats | None:
        """[seeds, steps] a metric of the training batches, NaN where a batch does not define it; None if not logged."""
        rows = [[row for row in log if "loss" in row] for log in self.logs]
        if not any(name in row for log in rows for row in log):
            return None
        return np.array([[row.get(name, np.nan) for row in log] for log in rows], dtype=float)


def areas(rollouts: Floats, accuracy: Floats) -> Floats:
    """[...] mean height of curves [..., E], by the trapezoidal rule."""
    return np.trapezoid(accuracy, rollouts, axis=-1) / (rollouts[-1] - rollouts[0])


def smooth(accuracy: Floats) -> Floats:
    """[..., E] each evaluation averaged with its neighbours, so that one lucky evaluation reaches no level."""
    padded = np.pad(accuracy, [(0, 0)] * (accuracy.ndim - 1) + [(1, 1)], mode="edge")
    return (padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]) / 3


def rollouts_to(level: Floats | float, rollouts: Floats, accuracy: Floats) -> Floats:
    """[N] rollouts until smoothed curves first reach a level, interpolated; infinite for a curve that never does.

    Args:
        level: one, or [N].
        rollouts: [E].
        accuracy: [N, E].
    """
    curves = smooth(accuracy)
    levels = np.broadcast_to(np.asarray(level, dtype=float), curves.shape[:1])
    reached = curves >= levels[:, None]
    rows, after = np.arange(len(curves)), reached.argmax(1)
    before = np.maximum(after - 1, 0)
    rise = curves[rows, after] - curves[rows, before]
    share = np.divide(levels - curves[rows, before], rise, out=np.zeros(len(curves)), where=after > 0)
    found = rollouts[before] + share * (rollouts[after] - rollouts[before])
    return np.where(reached.any(1), found, np.inf)


def draws(seeds: int) -> NDArray[np.int64]:
    """[resamples, seeds] the seeds of every resample."""
    return np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))


@cache
def tail(seeds: int) -> float:
    """Share of the resamples on either side of a 95 % interval: 0.001 for five seeds, 0.025 for very many."""
    # numpy has no quantiles of Student's distribution, but samples of it.
    student = np.quantile(np.abs(np.random.default_rng(0).standard_t(seeds - 1, 1_000_000)), 0.95)
    return NormalDist().cdf(-float(student) * (seeds / (seeds - 1)) ** 0.5)


def interval(value: float, drawn: Floats, seeds: int) -> Interval:
    """The value with the interval of its resamples, which may be infinite; NaN ends with one seed."""
    if seeds < 2:
        return Interval(value, np.nan, np.nan)
    outside = tail(seeds)
    low, high = np.quantile(drawn, [outside, 1 - outside], method="inverted_cdf")  # no interpolation with infinity
    return Interval(value, float(low), float(high))


def mean_interval(values: Floats) -> Interval:
    """The mean over seeds, NaN left out, with its interval."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    return interval(float(values.mean()), values[draws(len(values))].mean(1), len(values))


def above(values: Floats) -> bool:
    """Whether the mean over seeds is shown to be above 0."""
    return mean_interval(values).low > 0


@dataclass(frozen=True)
class Ratio:
    """Rollouts of an arm divided by those of the arm it is compared with, to reach the final accuracy of the latter.

    Args:
        interval: of the ratio of the mean curves; an end may be infinite, and is NaN with one seed.
        reached: share of the resamples in which the arm reaches that accuracy at all.
    """

    interval: Interval
    reached: float


def ratio(arm: Arm, against: Arm) -> Ratio:
    """Compare the mean curves of two arms, over the seeds and in every resample of them.

    The level is the mean of the last evaluations of `against`. A mean curve that does not reach it has an infinite
    ratio, also in a resample: runs that were too short count as slower, not as missing.
    """
    resamples = draws(len(arm.logs))
    value = _ratios(arm.accuracy.mean(0)[None], against.accuracy.mean(0)[None], arm.rollouts)[0]
    drawn = _ratios(arm.accuracy[resamples].mean(1), against.accuracy[resamples].mean(1), arm.rollouts)
    return Ratio(interval(float(value), drawn, len(arm.logs)), float(np.isfinite(drawn).mean()))


def _ratios(arm: Floats, against: Floats, rollouts: Floats) -> Floats:
    """[N] ratios of mean curves [N, E].

    Against a curve that never reaches its own level, its last point counts. A curve that ends no higher than it starts
    has that level before the first rollout: the ratio is 1 for an arm that has it then, too, and else infinite.
    """
    levels = against[:, -FINAL:].mean(1)
    base = np.minimum(rollouts_to(levels, rollouts, against), rollouts[-1])
    found = rollouts_to(levels, rollouts, arm)
    without = np.where(found > 0, np.inf, 1.0)
    return np.divide(found, base, out=without, where=base > 0)


def _evaluations(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per evaluated step; the last one, should a step be evaluated twice."""
    return list({row["step"]: row for row in log if f"eval_{ACCURACY}" in row}.values())
