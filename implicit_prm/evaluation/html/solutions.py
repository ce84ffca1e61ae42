"""Scored responses as a page shows them: every step with its value, colour and marks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from implicit_prm.types import Group, Prompt, StepScores
from implicit_prm.utils.colors import Scale

# Limits of a page: at most this many problems, fewer if their responses are long.
PROBLEMS, CHARACTERS = 50, 600_000
_STEP_CHARACTERS = 250  # of markup around a step's text
# Marks of a step: by its label, by the scores, by a threshold.
MARKS = RIGHT, FIRST_WRONG, WRONG, LOWEST, PREDICTED = "right", "first wrong", "wrong", "lowest", "predicted"


@dataclass(frozen=True)
class ShownStep:
    """A step: its text, its value as text, its colour as #rrggbb, and its `MARKS`."""

    text: str
    value: str
    colour: str
    marks: Sequence[str] = ()


@dataclass(frozen=True)
class ShownResponse:
    """One response; `roles` say why it is shown. `text` is empty if the steps contain it."""

    roles: list[str]
    right: bool
    steps: list[ShownStep]
    text: str = ""
    facts: list[str] = field(default_factory=list)

    @property
    def characters(self) -> int:
        """Approximate size on the page."""
        return len(self.text) + sum(len(step.text) + _STEP_CHARACTERS for step in self.steps)


@dataclass(frozen=True)
class ShownProblem:
    """A problem with the responses that are shown. Pages filter by `tags`, of which all problems have equally many."""

    id: str
    tags: list[str]
    prompt: str
    responses: list[ShownResponse]
    answer: str | None = None


def common_scale(kind: str, values: Iterable[Sequence[float]]) -> Scale:
    """One colour scale for the page. The largest 5 % of values are fully coloured, so outliers do not pale the rest."""
    sizes = np.abs([value for some in values for value in some])
    return Scale.of(kind, [float(np.quantile(sizes, 0.95))] if len(sizes) else [])


def shown_steps(
    group: Group, place: int, one: StepScores, values: Sequence[float], scale: Scale, marks: Sequence[Sequence[str]]
) -> tuple[list[ShownStep], str]:
    """The steps of a response, and its text if the steps do not contain it.

    Scores from a column have no spans. Their steps are those of the column `steps` if the numbers agree, else numbered.
    """
    texts: Sequence[str] = one.steps
    given = group.steps[place] if group.steps is not None else []
    if len(texts) != len(values):
        texts = given if len(given) == len(values) else []
    has_step_texts = bool(texts)
    texts = texts or [f"step {number}" for number in range(1, len(values) + 1)]
    steps = [
        ShownStep(text.strip(), scale.number(value), scale.colour(value), mark)
        for text, value, mark in zip(texts, values, marks, strict=True)
    ]
    return steps, "" if has_step_texts else one.response


@dataclass(frozen=True)
class Browser:
    """The problems of a page, the number of problems per tag, and the marks that occur."""

    problems: list[ShownProblem]
    tags: dict[str, int]
    marks: list[str]


def browser(problems: Iterable[ShownProblem]) -> Browser:
    """The first problems, as many as fit on a page; at least one if there are any."""
    kept: list[ShownProblem] = []
    room = CHARACTERS
    for problem in problems:
        room -= len(problem.prompt) + sum(response.characters for response in problem.responses)
        if kept and (room < 0 or len(kept) == PROBLEMS):
            break
        kept.append(problem)
    tags = Counter(tag for column in zip(*(problem.tags for problem in kept), strict=True) for tag in column)
    steps = [step for problem in kept for response in problem.responses for step in response.steps]
    found = {mark for step in steps for mark in step.marks}
    return Browser(kept, dict(tags), [mark for mark in MARKS if mark in found])


def prompt_text(prompt: Prompt) -> str:
    """A problem as text: the turns of a chat with their roles, a single user turn without."""
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if len(turns) == 1 and turns[0]["role"] == "user":
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
