"""Responses with their rewrites, as the groups that are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from implicit_prm import sandbox
from implicit_prm.config import ShiftConfig
from implicit_prm.evaluation.best_of_n.candidates import grade
from implicit_prm.evaluation.html.solutions import prompt_text
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.shift.rewrites import REWRITES
from implicit_prm.types import Group

# Why a response is not rewritten.
UNCHANGED, REFUSED, OTHER_ANSWER, OTHER_STEPS = "unchanged", "refused", "other_answer", "other_steps"


@dataclass(frozen=True)
class Pairs:
    """Every problem with its responses and their rewrites.

    Attributes:
        groups: of every problem, the K responses followed by all of their rewrites.
        places: name of a rewrite -> of every problem, the place of a response -> that of its rewrite.
        skipped: name of a rewrite -> number of responses that it left alone, by reason.
    """

    groups: list[Group]
    places: dict[str, list[dict[int, int]]]
    skipped: dict[str, Counter[str]] = field(default_factory=dict)


def rewritten(config: ShiftConfig, groups: Sequence[Group], candidates: Sequence[Candidates]) -> Pairs:
    """Rewrite every response that can be picked.

    A rewrite is dropped if the grader finds another answer in it, or, for a problem of the sandbox, if the exact step
    checker has other verdicts on its steps.

    Args:
        config: which rewrites, and how answers are found and compared.
        groups: graded candidates.
        candidates: of every problem.
    """
    skipped: dict[str, Counter[str]] = {name: Counter() for name in config.rewrites}
    made = [_of_problem(config, *one, skipped) for one in zip(groups, candidates, strict=True)]
    whole = [_with_rewrites(group, rewrites) for group, rewrites in zip(groups, made, strict=True)]
    _, graded = grade(whole, config)
    for group, c, rewrites in zip(groups, graded, made, strict=True):
        new = range(len(group), len(c.classes))
        for (name, place), number in zip(list(rewrites), new, strict=True):
            if c.classes[place] != c.classes[number]:
                skipped[name][OTHER_ANSWER] += 1
                del rewrites[name, place]
    places: dict[str, list[dict[int, int]]] = {name: [{} for _ in groups] for name in config.rewrites}
    for problem, (group, rewrites) in enumerate(zip(groups, made, strict=True)):
        for number, (name, place) in enumerate(rewrites, len(group)):
            places[name][problem][place] = number
    whole = [_with_rewrites(group, rewrites) for group, rewrites in zip(groups, made, strict=True)]
    return Pairs(whole, places, skipped)


def _of_problem(
    config: ShiftConfig, group: Group, c: Candidates, skipped: dict[str, Counter[str]]
) -> dict[tuple[str, int], str]:
    """(name, place of the response) -> the rewritten response."""
    problem = prompt_text(group.prompt)
    made: dict[tuple[str, int], str] = {}
    for name in config.rewrites:
        for place, text in enumerate(group.completions):
            if not c.valid[place]:
                continue
            new = REWRITES[name](problem, text)
            if new is None:
                skipped[name][REFUSED] += 1
            elif new == text:
                skipped[name][UNCHANGED] += 1
            elif sandbox.check_steps(problem, new, lenient=True) != sandbox.check_steps(problem, text):
                skipped[name][OTHER_STEPS] += 1
            else:
                made[name, place] = new
    return made


def _with_rewrites(group: Group, rewrites: dict[tuple[str, int], str]) -> Group:
    """The group with the rewrites after its responses. They have the label of their response, and no given steps."""
    places = [place for _, place in rewrites]
    return replace(
        group,
        completions=[*group.completions, *rewrites.values()],
        correctness=[*group.correctness, *(group.correctness[place] for place in places)],
        finished=[*group.finished, *(group.finished[place] for place in places)],
        steps=None,
        step_labels=None,
        extra={},
    )
