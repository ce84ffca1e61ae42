"""Exact step labels for sandbox problems, whose steps a program can check."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any

from implicit_prm.baselines.labels.labeller import LabelledGroup
from implicit_prm.config import ExactConfig
from implicit_prm.rewards.step_splitting import split_steps
from implicit_prm.sandbox import check_steps
from implicit_prm.sandbox.world import true_solution
from implicit_prm.types import Group, ImplicitPRMError, Problem, TokenCounts


class Exact:
    """Label each step 1 if it is correct given the steps before it, else 0."""

    def __init__(self, config: ExactConfig) -> None:
        self.identity: dict[str, Any] = {}

    def label(self, groups: Sequence[Group], done: Container[str]) -> Iterator[LabelledGroup]:
        """Label the groups whose id is not in `done`, in order.

        Raises:
            ImplicitPRMError: a prompt that is not a sandbox problem, or a response whose lines are not its steps.
        """
        for group in groups:
            if group.id not in done:
                yield LabelledGroup(group, _labels(group), TokenCounts())


def _labels(group: Group) -> list[list[float]]:
    if not isinstance(group.prompt, str):
        raise ImplicitPRMError(f"{group.id}: method=exact labels plain sandbox problems; this prompt is a chat")
    true_solution(Problem(group.id, group.prompt, ""))  # raises for anything but a sandbox problem
    labels = [[float(correct) for correct in check_steps(group.prompt, text)] for text in group.completions]
    for index, (step_labels, text) in enumerate(zip(labels, group.completions, strict=True)):
        steps = len(split_steps(text, "newline"))
        if len(step_labels) != steps:
            raise ImplicitPRMError(
                f"{group.id}, response {index}: {len(step_labels)} checked lines but {steps} steps; remove the response"
            )
    return labels
