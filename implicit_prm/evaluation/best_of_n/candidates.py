"""The candidates of a run as selection sees them: loaded, graded, equal answers grouped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from implicit_prm.config import RerankConfig
from implicit_prm.data.groups import take_responses
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.grading import Grader, GraderPool
from implicit_prm.types import Group, ImplicitPRMError
from implicit_prm.utils.distributed import processes
from implicit_prm.utils.progress import progress


def select(groups: Sequence[Group], config: RerankConfig, say: Callable[[str], None]) -> list[Group]:
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


def grade(groups: Sequence[Group], config: RerankConfig) -> tuple[list[Group], list[Candidates]]:
    """The groups with every response graded, and what selection sees of each.

    Of several processes the first grades, and the others wait for the result.

    Args:
        groups: labels that are there are kept.
        config: `grading` says how answers are found and compared; with `unanswered=lowest`, a response without an
            answer is not picked.
    """
    with processes() as state:
        candidates = _in_this_process(groups, config) if state.first else []
        candidates = state.gather(candidates)[0]
    labels = [c.correct.tolist() for c in candidates]
    return [replace(group, correctness=some) for group, some in zip(groups, labels, strict=True)], candidates


def _in_this_process(groups: Sequence[Group], config: RerankConfig) -> list[Candidates]:
    found = []
    with GraderPool(config.grading) as graders, progress("grading", sum(map(len, groups))) as advance:
        for group, candidates in zip(groups, graders.map(partial(_graded, config.unanswered), groups), strict=True):
            found.append(candidates)
            advance(len(group))
    return found


def _graded(unanswered: str, grader: Grader, group: Group) -> Candidates:
    """Grade the responses and group equal answers.

    A response that was cut off can neither vote nor be picked, whatever it boxed before.
    """
    valid = np.array(group.finished, dtype=bool)
    answers = [grader.extract(text, ok)[0] for text, ok in zip(group.completions, group.finished, strict=True)]
    correct = [
        grader.equal(group.answer, answer).correct if label is None else label
        for answer, label in zip(answers, group.correctness, strict=True)
    ]
    classes = np.array(grader.answer_classes([a if ok else None for a, ok in zip(answers, valid, strict=True)]))
    if unanswered == "lowest":
        valid &= classes >= 0
    return Candidates(np.array(correct, dtype=bool), classes, valid)
