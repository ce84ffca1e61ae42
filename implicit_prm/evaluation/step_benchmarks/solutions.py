"""The solutions of a benchmark with their labels, scores and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from implicit_prm.evaluation.process_bench.run import fold_of_problem
from implicit_prm.evaluation.statistics import resampled_counts
from implicit_prm.evaluation.step_benchmarks import judgement as j
from implicit_prm.rewards.implicit_reward import step_values
from implicit_prm.types import Group, ImplicitPRMError, StepScores


@dataclass(frozen=True)
class Solutions:
    """n solutions.

    Attributes:
        ids: [n].
        kinds: [n] class of the errors.
        labels: [n] whether each step is right.
        values: [n] step values; none for a solution that was not scored.
        problem: [n] index of the problem, which the bootstrap resamples.
        weights: [1 + resamples, n] counts: ones, then those of each resample.
    """

    ids: list[str]
    kinds: NDArray[np.str_]
    labels: list[list[bool]]
    values: list[list[float]]
    problem: NDArray[np.int64]
    weights: j.Floats

    @property
    def everything(self) -> NDArray[np.bool_]:
        """[n] true: all solutions."""
        return np.ones(len(self.ids), dtype=bool)

    @property
    def can_be_fitted(self) -> bool:
        """Whether a threshold can be fitted: there are right and wrong steps, and two problems or more."""
        return len({right for labels in self.labels for right in labels}) == 2 and bool(self.problem.max())

    @property
    def first_errors(self) -> NDArray[np.int64]:
        """[n] index of the first wrong step, -1 for none."""
        return np.array([right.index(False) if False in right else -1 for right in self.labels])


@dataclass(frozen=True)
class Judged:
    """The judgement of all n solutions under each of R weightings.

    Attributes:
        values: [n] step values.
        thresholds: [R, n] a step is judged wrong if its value is below.
        counts: [R, n] steps by label and judgement.
    """

    values: list[list[float]]
    thresholds: j.Floats
    counts: j.Counts


def solutions_of(
    groups: Sequence[Group], scores: Sequence[Sequence[StepScores]], over: str, resamples: int, seed: int
) -> Solutions:
    """The solutions of all groups, and resamples of their problems."""
    pairs = [(group, place, one) for group, some in zip(groups, scores, strict=True) for place, one in enumerate(some)]
    names = [group.extra["problems"][place] for group, place, _ in pairs]
    problem = np.unique(names, return_inverse=True)[1]
    problems = int(problem.max()) + 1
    drawn = np.concatenate([np.ones((1, problems)), *resampled_counts(problems, resamples, seed, problems)])
    return Solutions(
        ids=[group.extra["ids"][place] for group, place, _ in pairs],
        kinds=np.array([group.extra["kinds"][place] for group, place, _ in pairs]),
        labels=[[bool(label) for label in (group.step_labels or [])[place] or []] for group, place, _ in pairs],
        values=[step_values(one, over) if one.step_rewards else [] for _, _, one in pairs],
        problem=problem,
        weights=drawn[:, problem],
    )


def judged(some: Solutions, values: list[list[float]], threshold: float | str, metric: j.Metric, seed: int) -> Judged:
    """Judge by a given threshold, or by cross-fitted ones in ten folds of problems, refitted in each resample.

    Raises:
        ImplicitPRMError: nothing to fit on: no right or no wrong step in the data, or no scores.
    """
    if isinstance(threshold, float):
        grid, chosen = np.array([threshold]), np.zeros(some.weights.shape, dtype=np.int64)
    else:
        if not some.can_be_fitted or not any(values):
            raise ImplicitPRMError(
                "no threshold can be fitted: it needs right and wrong steps, their scores, and two problems or more. "
                "Use more problems, or set threshold to a number"
            )
        grid = j.candidate_thresholds(values)
    counts = j.counts_at(values, some.labels, grid)
    if not isinstance(threshold, float):
        folds = fold_of_problem(int(some.problem.max()) + 1, seed)[some.problem]
        chosen = j.cross_fitted(counts, folds, some.weights, metric)
    return Judged(values, grid[chosen], j.taken(counts, chosen))
