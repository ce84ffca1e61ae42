"""Exact step rewards of the sandbox, as a scorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from implicit_prm import sandbox
from implicit_prm.rewards.step_splitting import split_steps
from implicit_prm.types import Prompt, StepScores


class ExactSteps:
    """Scores each line of a response: 1 if it is right, 0 if it is wrong.

    Args:
        problems: the text of each problem, by the last message of its prompt.
    """

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = problems

    def check(self, prompt: Prompt, response: str) -> list[bool]:
        """Is each step of a response right?"""
        message = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        return sandbox.check_steps(self.problems[message], response)

    def score(self, problem: Prompt, responses: Sequence[str]) -> list[StepScores]:
        """One `StepScores` per response, of kind probability."""
        scores = []
        for text in responses:
            right = [float(label) for label in self.check(problem, text)]
            scores.append(StepScores(text, split_steps(text, "newline"), right, kind="probability"))
        return scores
