"""Where the right and wrong steps are known: does the lowest step reward point at the first wrong one?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from implicit_prm.evaluation.statistics import clustered_auroc, clustered_ratio
from implicit_prm.records import Group, ImplicitPRMError, StepScores


def step_metrics(groups: Sequence[Group], scores: Sequence[Sequence[StepScores]], seed: int = 0) -> dict[str, Any]:
    """AUROC of step rewards for first-wrong against right steps, and how often the lowest step is the first wrong one.

    Right steps are those before the first wrong one (all of them in a response without any); what follows a wrong step
    is neither, as in ProcessBench (arXiv 2412.06559). Intervals resample problems. Empty where no step is labelled.

    Raises:
        ImplicitPRMError: a response whose number of step labels is not its number of scored steps.
    """
    right: list[list[float]] = []
    wrong: list[list[float]] = []
    found, faulty = [], []
    for group, scored in zip(groups, scores, strict=True):
        if group.step_labels is None:
            continue
        kept: list[float] = []
        first: list[float] = []
        hits = 0
        for place, (labels, one) in enumerate(zip(group.step_labels, scored, strict=True)):
            if len(labels) != len(one.step_rewards):
                raise ImplicitPRMError(
                    f"problem {group.id}, response {place}: {len(labels)} step labels but "
                    f"{len(one.step_rewards)} steps; score with the step rule that the labels were made for"
                )
            error = labels.index(False) if False in labels else len(labels)
            kept += one.step_rewards[:error]
            if error < len(labels):
                first.append(one.step_rewards[error])
                hits += one.lowest_step == error
        right.append(kept)
        wrong.append(first)
        found.append(hits)
        faulty.append(len(first))
    if not sum(faulty):
        return {}
    return {
        "auroc": asdict(clustered_auroc(right, wrong, seed=seed)),
        "first_error_found": asdict(clustered_ratio(np.array(found), np.array(faulty), seed=seed)),
        "resamples": {"auroc": 1_000, "first_error_found": 10_000},
        "right_steps": sum(map(len, right)),
        "first_wrong_steps": sum(faulty),
    }
