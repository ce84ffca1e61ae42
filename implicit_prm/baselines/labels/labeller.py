"""The interface of a labelling method, and the labels that it returns."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from implicit_prm.types import Group, TokenCounts


@dataclass(frozen=True)
class LabelledGroup:
    """A group with its step labels.

    Args:
        labels: one list per response, one number in [0, 1] per step.
        tokens: the tokens that passed through a model to make the labels.
        columns: extra columns of the output row.
    """

    group: Group
    labels: list[list[float]]
    tokens: TokenCounts
    columns: dict[str, Any] = field(default_factory=dict)


class Labeller(Protocol):
    """A method that labels steps. `identity` is compared on resume, in addition to the options."""

    identity: dict[str, Any]

    def label(self, groups: Sequence[Group], done: Container[str]) -> Iterator[LabelledGroup]:
        """Label the groups whose id is not in `done`, in order."""
        ...
