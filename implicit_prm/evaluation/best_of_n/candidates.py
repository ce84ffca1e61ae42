"""The candidates of a run as selection sees them: loaded, graded, equal answers grouped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from implicit_prm.config import BestOfNConfig
from implicit_prm.data.groups import take_responses
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.grading import Grader
from implicit_prm.types import Group, ImplicitPRMError
from implicit_prm.utils.progress import tracked


def select(groups: Sequence[Group], config: BestOfNConfig, say: Callable[[str], None]) -> list[Group]:
    """The first `max_problems` groups with `max_responses` random responses each.

    Raises:
        ImplicitPRMError: a problem whose responses can neither be graded nor are labelled.
    """
    chosen = list(groups[: config.max_problems])
    for group in chosen:
        if None in group.correctness and group.answer is None:
            raise ImplicitPRMError(
                f"problem {group.id}: no correctness and no answer to grade against; give one of them"
            )
    if config.max_responses is not None:
        chosen = take_responses(chosen, config.max_responses, config.seed)
    smallest, largest = min(map(len, chosen)), max(map(len, chosen))
    if smallest < largest:
        say(f"problems have {smallest} to {largest} responses; N goes up to the smallest")
    return chosen


def grade(groups: Sequence[Group], config: BestOfNConfig, shown: bool = True) -> tuple[list[Group], list[Candidates]]:
    """The groups with every response graded, and what selection sees of each.

    Args:
        groups: labels that are there are kept.
        config: `grading` says how answers are found and compared; with `unanswered=lowest`, a response without an
            answer is not picked.
        shown: whether progress is shown.
    """
    with Grader.of(config.grading) as grader:
        graded = [grade_group(group, grader) for group in tracked(groups, "grading", shown)]
        candidates = [
            as_candidates(group, grader, config.unanswered) for group in tracked(graded, "grouping answers", shown)
        ]
    return graded, candidates


def grade_group(group: Group, grader: Grader) -> Group:
    """The group with every response graded; labels that are there are kept."""
    if None not in group.correctness:
        return group
    if group.answer is None:
        raise ImplicitPRMError(f"problem {group.id}: no correctness and no answer to grade against; give one of them")
    answer = group.answer
    labels: list[bool | None] = [
        grader.grade(text, answer, finished).correct if label is None else label
        for text, finished, label in zip(group.completions, group.finished, group.correctness, strict=True)
    ]
    return replace(group, correctness=labels)


def as_candidates(group: Group, grader: Grader, unanswered: str) -> Candidates:
    """Group equal answers. A response that was cut off can neither vote nor be picked, whatever it boxed before."""
    valid = np.array(group.finished, dtype=bool)
    answers = [grader.extract(text)[0] if ok else None for text, ok in zip(group.completions, valid, strict=True)]
    classes = np.array(grader.answer_classes(answers))
    if unanswered == "lowest":
        valid &= classes >= 0
    return Candidates(np.array(group.correctness, dtype=bool), classes, valid)
