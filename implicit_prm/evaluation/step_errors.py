"""Where the right and wrong steps are known: does the lowest step reward point at the first wrong one?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from implicit_prm.data.columns import ESTIMATED
from implicit_prm.evaluation.statistics import clustered_auroc, clustered_ratio
from implicit_prm.types import Group, ImplicitPRMError, StepLabels, StepScores
from implicit_prm.utils.errors import error_context


@dataclass(frozen=True)
class StepErrors:
    """Of each problem: the scores of right steps and of first wrong ones; of the latter, how many were the lowest of
    their response, and how many there are."""

    right: list[list[float]]
    wrong: list[list[float]]
    found: list[int]
    faulty: list[int]


def step_metrics(groups: Sequence[Group], scores: Sequence[Sequence[StepScores]], seed: int = 0) -> dict[str, Any]:
    """AUROC of step rewards for first-wrong against right steps, and how often the lowest step is the first wrong one.

    Intervals resample problems. Empty where no wrong step is labelled; see `step_errors`.
    """
    errors = step_errors(groups, scores)
    if not sum(errors.faulty):
        return {}
    found = clustered_ratio(np.array(errors.found), np.array(errors.faulty), seed=seed)
    return {
        "auroc": asdict(clustered_auroc(errors.right, errors.wrong, seed=seed)),
        "first_error_found": asdict(found),
        "resamples": {"auroc": 1_000, "first_error_found": 10_000},
        "right_steps": sum(map(len, errors.right)),
        "first_wrong_steps": sum(errors.faulty),
    }


def step_errors(groups: Sequence[Group], scores: Sequence[Sequence[StepScores]]) -> StepErrors:
    """What step scores say of labelled steps, problem by problem.

    Right steps are those before the first wrong one (all of them in a response without any); what follows a wrong step
    is neither, as in ProcessBench (arXiv 2412.06559). Problems without labels are left out, and those whose labels are
    estimates (`ESTIMATED`): agreement with a guess is no measure.

    Raises:
        ImplicitPRMError: a response whose number of step labels is not its number of scored steps, or with a label that
            is neither true nor false.
    """
    errors = StepErrors([], [], [], [])
    for group, scored in zip(groups, scores, strict=True):
        if group.step_labels is None or group.step_label_source in ESTIMATED:
            continue
        kept: list[float] = []
        first: list[float] = []
        hits = 0
        for place, (told, one) in enumerate(zip(group.step_labels, scored, strict=True)):
            if told is None:
                continue
            with error_context(f"problem {group.id}, response {place}"):
                _require_hard(told)
                told.require_steps(len(one.step_rewards))
            error = told.first_error
            kept += one.step_rewards[:error]
            if error is not None:
                first.append(one.step_rewards[error])
                hits += one.lowest_step == error
        errors.right.append(kept)
        errors.wrong.append(first)
        errors.found.append(hits)
        errors.faulty.append(len(first))
    return errors


def _require_hard(labels: StepLabels) -> None:
    if not labels.is_hard:
        raise ImplicitPRMError(
            f"the step labels {list(labels)} are not all true or false, so nothing can be measured with them; leave "
            f"step_labels out, or name their source in step_label_source ({', '.join(sorted(ESTIMATED))})"
        )
