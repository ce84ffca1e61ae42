"""Scored responses as a page shows them: every step with its number, its colour and what is known of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from implicit_prm.types import Group, Prompt, StepScores
from implicit_prm.utils.colors import Scale

# What keeps a page small: so many problems, or fewer if their responses are long.
PROBLEMS, CHARACTERS = 50, 600_000
_STEP_CHARACTERS = 250  # of markup around a step's text
# What can be known of a step: by the data's label, by the scores, by a threshold.
MARKS = RIGHT, FIRST_WRONG, WRONG, LOWEST, PREDICTED = "right", "first wrong", "wrong", "lowest", "predicted"


@dataclass(frozen=True)
class ShownStep:
    """A step's text, its value as written and as #rrggbb, and those of `MARKS` that hold."""

    text: str
    value: str
    colour: str
    marks: Sequence[str] = ()


@dataclass(frozen=True)
class ShownResponse:
    """One response with what it is here for (`roles`). `text` is given where the steps do not tell it."""

    roles: list[str]
    right: bool
    steps: list[ShownStep]
    text: str = ""
    facts: list[str] = field(default_factory=list)

    @property
    def characters(self) -> int:
        """Roughly what it takes of the page."""
        return len(self.text) + sum(len(step.text) + _STEP_CHARACTERS for step in self.steps)


@dataclass(frozen=True)
class ShownProblem:
    """A problem with the responses that are shown of it; `tags`, of all problems as many, are to filter by."""

    id: str
    tags: list[str]
    prompt: str
    responses: list[ShownResponse]
    answer: str | None = None


def common_scale(kind: str, values: Iterable[Sequence[float]]) -> Scale:
    """One scale for a whole page. The largest twentieth of the values has the full colour: a few must not pale all."""
    sizes = np.abs([value for some in values for value in some])
    return Scale.of(kind, [float(np.quantile(sizes, 0.95))] if len(sizes) else [])


def shown_steps(
    group: Group, place: int, one: StepScores, values: Sequence[float], scale: Scale, marks: Sequence[Sequence[str]]
) -> tuple[list[ShownStep], str]:
    """The steps of a response, and its text where they do not tell it.

    Scores from a column have no spans: their steps are the ones that are given beside them, if as many, or numbers.
    """
    texts: Sequence[str] = one.steps
    given = group.steps[place] if group.steps is not None else []
    if len(texts) != len(values):
        texts = given if len(given) == len(values) else []
    told = bool(texts)
    texts = texts or [f"step {number}" for number in range(1, len(values) + 1)]
    steps = [
        ShownStep(text.strip(), scale.number(value), scale.colour(value), mark)
        for text, value, mark in zip(texts, values, marks, strict=True)
    ]
    return steps, "" if told else one.response


@dataclass(frozen=True)
class Browser:
    """The problems of a page, how many of them have each tag, and which marks their steps have."""

    problems: list[ShownProblem]
    tags: dict[str, int]
    marks: list[str]


def browser(problems: Iterable[ShownProblem]) -> Browser:
    """As many of the first problems as a page has room for, at least one if there is one."""
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
    """A problem as one text: a chat's turns one after the other, a single user's turn without saying whose it is."""
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if len(turns) == 1 and turns[0]["role"] == "user":
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
