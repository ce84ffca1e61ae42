"""What a search works with: prefixes of responses, something that continues them, something that scores them.

A search keeps n prefixes, in slots. In every round each slot continues the prefix of one slot of the round before, its
parent; an algorithm decides by the values of the prefixes which one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from implicit_prm.types import Problem, StepScores


@dataclass(frozen=True)
class Prefix:
    """The beginning of a response, or a whole one.

    Args:
        text: without special tokens.
        ids: its tokens as they were generated, with the end-of-turn token; None if they are not known (a server).
        logprobs: log-probability of each token under the generator at temperature 1, in nats; None if not known.
        finished: it ended by itself.
        cut_off: it has no end, and cannot be continued.
    """

    text: str = ""
    ids: tuple[int, ...] | None = ()
    logprobs: tuple[float, ...] | None = None
    finished: bool = False
    cut_off: bool = False

    @property
    def done(self) -> bool:
        """Whether it cannot be continued."""
        return self.finished or self.cut_off


class Generation(Protocol):
    """The responses to one problem as they grow.

    Attributes:
        tokens: that the generator has computed so far: the prompt once, every token that it generated, and all that it
            had to compute again.
        guide_tokens: that the guide's models have computed for it (token-level guidance).
    """

    @property
    def tokens(self) -> int: ...
    @property
    def guide_tokens(self) -> int: ...

    def extend(self, parents: Sequence[int]) -> list[Prefix]:
        """Continue prefixes by one step, or to their ends.

        Args:
            parents: [n] for each slot, the slot of the round before whose prefix it continues. In the first round the
                only slot is 0, the empty response. A prefix that is done is kept as it is.

        Returns:
            [n] the prefixes in the slots now.
        """
        ...


class Generator(Protocol):
    """Opens generations.

    Attributes:
        identity: names the model, for the record of a run.
        workers: how many problems may be searched at a time.
        is_reference: whether it is the guide's reference, too, so that its log-probabilities are the reference's.
    """

    identity: dict[str, Any]
    workers: int
    is_reference: bool

    def open(self, problem: Problem, place: int) -> Generation:
        """Start the responses to a problem.

        Args:
            problem: the problem.
            place: its place among all problems, which seeds its random numbers.

        Raises:
            RefusedError: the problem cannot be sampled; the others can.
        """
        ...


class Guide(Protocol):
    """Scores the prefixes of responses to one problem.

    Attributes:
        tokens: that ran through the guide's models so far; None if that is not known.
    """

    @property
    def tokens(self) -> int | None: ...

    def score(self, prefixes: Sequence[Prefix], parents: Sequence[int]) -> list[StepScores]:
        """Scores of the prefixes, whose `parents` are as for `Generation.extend`."""
        ...


class RefusedError(Exception):
    """A problem that cannot be sampled, and why."""


@dataclass(frozen=True)
class Frontier:
    """What an algorithm sees after a round.

    Args:
        values: [n] the values of the prefixes, finite; all prefixes that are open have had the same number of rounds.
        before: [n] the values of their parents; 0 for the empty response.
        open: [n] whether the prefix can be continued.
    """

    values: Sequence[float]
    before: Sequence[float]
    open: Sequence[bool]

    @property
    def open_slots(self) -> list[int]:
        """The slots whose prefix can be continued."""
        return [slot for slot, open_ in enumerate(self.open) if open_]

    def best(self, slots: Sequence[int]) -> list[int]:
        """The slots, that of the highest value first; equal values stay in order."""
        return sorted(slots, key=lambda slot: -self.values[slot])

    def refilled(self, slots: Sequence[int], survivors: Sequence[int]) -> list[int]:
        """Parents of the next round: of `slots` in turn the `survivors`, of all others themselves."""
        parents = list(range(len(self.values)))
        for turn, slot in enumerate(slots):
            parents[slot] = survivors[turn % len(survivors)]
        return parents


# Parents of the next round: frontier, options of the algorithm, random numbers -> [n] slots.
Select = Callable[[Frontier, Any, np.random.Generator], Sequence[int]]
