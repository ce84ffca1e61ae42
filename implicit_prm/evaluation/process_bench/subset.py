"""A subset of ProcessBench with its scores, and the verdicts on its solutions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from implicit_prm.evaluation.process_bench import thresholds as th
from implicit_prm.rewards.implicit_reward import step_values
from implicit_prm.types import Group, StepScores

BLIND = "best blind guess"


@dataclass(frozen=True)
class Subset:
    """A subset with its scores. Its n solutions are ordered by problem: those of the first, of the second, ..."""

    name: str
    groups: list[Group]
    scores: list[list[StepScores]]
    weights: th.Floats  # [1 + resamples, n] counts: ones, then those of each bootstrap resample of problems

    @property
    def labels(self) -> NDArray[np.int64]:
        """[n] index of the first wrong step, -1 for none."""
        errors = [labels.first_error if labels else None for group in self.groups for labels in group.step_labels or []]
        return np.array([-1 if error is None else error for error in errors])

    @property
    def problem(self) -> NDArray[np.int64]:
        """[n] index of each solution's problem."""
        return np.repeat(np.arange(len(self.groups)), [len(group) for group in self.groups])

    def column(self, name: str) -> list[Any]:
        """[n] entries of one of the groups' extra columns."""
        return [entry for group in self.groups for entry in group.extra[name]]

    def values(self, over: str) -> list[list[float]]:
        """[n] lists of step values, see `step_values`; empty for a solution that was not scored."""
        return [step_values(one, over) for some in self.scores for one in some]

    def windows(self, over: str) -> th.Windows:
        """The thresholds that judge each solution correctly."""
        return th.windows(self.values(over), self.labels.tolist())


@dataclass(frozen=True)
class Verdict:
    """Whether each solution is judged correctly, and the threshold, if there is one."""

    hits: NDArray[np.float64]  # [n] or [1 + resamples, n] probabilities; NaN in resamples without a fitted threshold
    threshold: dict[str, Any] | None = None
    used: th.Floats | None = None  # [n] the threshold used for each solution


def blind(one: Subset) -> dict[str, Verdict]:
    """Baselines that do not read the solution, in expectation.

    The blind guess says "no error" with probability p, and otherwise one of the S steps with equal probability. Its
    accuracies are p and (1 - p) m, with m the mean of 1/S over erroneous solutions; p maximises its F1.
    """
    labels, erroneous = one.labels, one.labels != -1
    steps = np.array([len(labels or []) for group in one.groups for labels in group.step_labels or []])
    root = math.sqrt(np.mean(1 / steps[erroneous])) if erroneous.any() else math.inf
    rate = 1.0 if math.isinf(root) else root / (1 + root)
    return {
        BLIND: Verdict(np.where(erroneous, (1 - rate) / steps, rate)),
        "no step is wrong": Verdict((~erroneous).astype(float)),
        "the last step is wrong": Verdict((labels == steps - 1).astype(float)),
    }
