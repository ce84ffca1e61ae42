"""Step scores against step labels: does the lowest step reward find the first wrong step?"""

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
    """Step scores by label, one entry per problem.

    Attributes:
        right: scores of the right steps.
        wrong: scores of the first wrong steps, one per faulty response.
        found: number of faulty responses whose lowest step is the first wrong one.
        faulty: number of faulty responses.
    """

    right: list[list[float]]
    wrong: list[list[float]]
    found: list[int]
    faulty: list[int]


def step_metrics(groups: Sequence[Group], scores: Sequence[Sequence[StepScores]], seed: int = 0) -> dict[str, Any]:
    """AUROC of step rewards for first-wrong against right steps, and how often the lowest step is the first wrong one.

    Intervals are bootstrap over problems. Empty if no step is labelled wrong; see `step_errors`.
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
    """Scores of right and of first wrong steps.

    Right steps are those before the first wrong one; steps after it are neither right nor wrong, as in ProcessBench
    (arXiv 2412.06559). Left out are responses that were not scored, problems without labels, and problems whose labels
    are estimates (`ESTIMATED`), which measure nothing.

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
        for place, (labels, one) in enumerate(zip(group.step_labels, scored, strict=True)):
            if labels is None or not one.step_rewards:
                continue
            with error_context(f"problem {group.id}, response {place}"):
                _require_hard(labels)
                labels.require_steps(len(one.step_rewards))
            error = labels.first_error
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
