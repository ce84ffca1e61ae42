"""report.html of a best-of-N run: figures, tables, and solutions with wrong picks first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from implicit_prm.evaluation.best_of_n.figures import accuracy_figure, lowest_step_figure, reliability_figure
from implicit_prm.evaluation.best_of_n.report import unanswered
from implicit_prm.evaluation.figures import embedded
from implicit_prm.evaluation.html.render import write_page
from implicit_prm.evaluation.html.solutions import (
    FIRST_WRONG,
    LOWEST,
    RIGHT,
    WRONG,
    ShownProblem,
    ShownResponse,
    browser,
    common_scale,
    prompt_text,
    shown_steps,
)
from implicit_prm.evaluation.scorer import kind_of
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.types import Group, StepScores
from implicit_prm.utils.colors import Scale

# Kinds of problems, in the order in which they are shown.
WRONG_PICK, BEATS_VOTE, RIGHT_PICK, NONE_RIGHT = "wrong pick", "right pick, wrong vote", "right pick", "none is right"
_KINDS = (WRONG_PICK, BEATS_VOTE, RIGHT_PICK, NONE_RIGHT)


@dataclass(frozen=True)
class Choice:
    """The responses of a problem that are shown, as indices, and the kind of problem."""

    kind: str
    pick: int
    right: int | None  # the highest-scored right response
    vote: int | None  # the first response with the most frequent answer
    votes: str = ""


def choose(c: Candidates, values: np.ndarray) -> Choice:
    """The response with the best score (the first of equals), the best correct one, and the majority's answer."""
    ranked = np.where(c.valid, values, -np.inf)
    pick = int(ranked.argmax())
    rights = np.flatnonzero(c.correct)
    right = int(rights[ranked[rights].argmax()]) if len(rights) else None
    counts = np.bincount(c.classes[c.classes >= 0])
    vote, votes = None, ""
    if len(counts):
        vote = int(np.flatnonzero(c.classes == counts.argmax())[0])
        tied = ", tied" if (counts == counts.max()).sum() > 1 else ""
        votes = f"{counts.max()} of {len(c.classes)}{tied}"
    if right is None:
        kind = NONE_RIGHT
    elif not c.correct[pick]:
        kind = WRONG_PICK
    else:
        kind = RIGHT_PICK if vote is None or c.correct[vote] else BEATS_VOTE
    return Choice(kind, pick, right, vote, votes)


def write(
    path: Path,
    metrics: dict[str, Any],
    groups: Sequence[Group],
    candidates: Sequence[Candidates],
    scores: Sequence[Sequence[StepScores]],
    values: Sequence[np.ndarray],
) -> None:
    """Write report.html.

    Args:
        path: where to write it.
        metrics: contents of metrics.json.
        groups: the problems.
        candidates: of every problem.
        scores: of every problem, one per response.
        values: of every problem, [K] the scores that responses are picked by.
    """
    choices = [choose(c, v) for c, v in zip(candidates, values, strict=True)]
    order = sorted(range(len(groups)), key=lambda problem: _KINDS.index(choices[problem].kind))
    scale = common_scale(kind_of(scores), [one.step_rewards for some in scores for one in some])

    shown = browser(_shown(groups[n], scores[n], values[n], candidates[n], choices[n], scale) for n in order)
    wrong = sum(choice.kind == WRONG_PICK for choice in choices)
    write_page(
        path,
        "best_of_n.html",
        metrics=metrics,
        unanswered=unanswered(metrics) if metrics["unanswered_responses"] else None,
        bases=list(dict.fromkeys(name.rpartition(" - ")[2] for name in metrics["difference"])),
        accuracy=embedded(accuracy_figure(metrics)),
        reliability=embedded(reliability_figure(metrics)) if metrics["reliability"]["bins"] else None,
        lowest_step=embedded(lowest_step_figure(metrics)) if metrics["lowest_step"] else None,
        scale=scale,
        remark=f"{len(shown.problems)} of {len(groups)} problems: {shown.tags.get(WRONG_PICK, 0)} of the {wrong} whose "
        f"pick is wrong although a right response exists, then others. Not shown: {len(groups) - len(shown.problems)}.",
        **vars(shown),
    )


def _shown(
    group: Group, scores: Sequence[StepScores], values: np.ndarray, c: Candidates, choice: Choice, scale: Scale
) -> ShownProblem:
    roles: dict[int, list[str]] = {choice.pick: ["picked"]}
    if choice.right is not None:
        roles.setdefault(choice.right, []).append("best right one")
    if choice.vote is not None:
        roles.setdefault(choice.vote, []).append(f"majority vote, {choice.votes}")
    responses = []
    for place, names in roles.items():
        one = scores[place]
        steps, text = shown_steps(group, place, one, one.step_rewards, scale, _marks(group, place, one))
        facts = [f"score {scale.number(values[place])}" if steps else "no step was scored", f"response {place}"]
        if not group.finished[place]:
            facts.append("cut off")
        elif c.classes[place] < 0:
            facts.append("no answer")
        responses.append(ShownResponse(names, bool(c.correct[place]), steps, text, facts))
    return ShownProblem(group.id, [choice.kind], prompt_text(group.prompt), responses, group.answer)


def _marks(group: Group, place: int, one: StepScores) -> list[list[str]]:
    """Marks of each step: its label in the data, and whether it is the lowest."""
    marks: list[list[str]] = [[] for _ in one.step_rewards]
    labels = group.step_labels[place] if group.step_labels is not None else None
    if labels is not None and len(labels) == len(marks):
        for step, label in enumerate(labels):
            marks[step].append(RIGHT if label else FIRST_WRONG if step == labels.first_error else WRONG)
    if len(marks) > 1 and one.lowest_step is not None:
        marks[one.lowest_step].append(LOWEST)
    return marks
