"""An implicit PRM as a guide: its caches grow with the search, so only new tokens are computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from implicit_prm.data.tokenization import EncodedResponse
from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.models.session import Session
from implicit_prm.rewards import implicit_reward
from implicit_prm.search.protocols import Prefix
from implicit_prm.types import Problem, Prompt, StepScores
from implicit_prm.utils.errors import error_context


class SessionGuide:
    """Scores the prefixes of responses to one problem, see `Guide`.

    Where the text of a longer prefix has other tokens than its beginning had, this prefix is computed from its start.

    Args:
        prm: the model.
        problem: the problem.
        prompt: its prompt, as the generator gets it.
        max_tokens: in one forward pass, padding included; None for a default by device.
        generator_is_reference: take the reference's log-probabilities from the prefixes.
    """

    def __init__(
        self,
        prm: ImplicitPRM,
        problem: Problem,
        prompt: Prompt,
        max_tokens: int | None = None,
        generator_is_reference: bool = False,
    ) -> None:
        self._prm, self._problem, self._prompt, self._max_tokens = prm, problem, prompt, max_tokens
        self._generator_is_reference = generator_is_reference
        self._session: Session | None = None
        # Of the tokens in each row of the session: the slots, and at the end the empty response.
        self._rewards: list[list[float]] = [[]]

    @property
    def tokens(self) -> int:
        """That ran through policy and reference."""
        return 0 if self._session is None else self._session.tokens

    def score(self, prefixes: Sequence[Prefix], parents: Sequence[int]) -> list[StepScores]:
        """Score the new tokens of the prefixes; see `Guide`."""
        with error_context(f"problem {self._problem.id}"):
            return self._scored(prefixes, parents)

    def _scored(self, prefixes: Sequence[Prefix], parents: Sequence[int]) -> list[StepScores]:
        if self._session is None:
            self._session = self._prm.open(self._prompt, max_tokens=self._max_tokens)
        encoded = self._prm.encoder.responses([prefix.text for prefix in prefixes], [p.finished for p in prefixes])
        known, empty = self._session.ids, len(self._rewards) - 1
        rows = [row if _starts_with(one.ids, known[row]) else empty for one, row in zip(encoded, parents, strict=True)]
        starts = [len(known[row]) for row in rows]
        new = [one.ids[start:] for one, start in zip(encoded, starts, strict=True)]
        reference = self._reference_logprobs(prefixes, encoded, starts)
        *scored, _ = self._session.extend([*new, []], [*rows, empty], reference)
        grown = [self._rewards[row] + step.token_rewards for row, step in zip(rows, scored, strict=True)]
        self._rewards = [*grown, []]
        return [_step_scores(place, prefix.text, encoded[place], grown[place]) for place, prefix in enumerate(prefixes)]

    def _reference_logprobs(
        self, prefixes: Sequence[Prefix], encoded: Sequence[EncodedResponse], starts: Sequence[int]
    ) -> list[Sequence[float] | None] | None:
        """Those of the new tokens of each row, where the generator is the reference and generated these very tokens."""
        if not self._generator_is_reference:
            return None
        found: list[Sequence[float] | None] = []
        for prefix, one, start in zip(prefixes, encoded, starts, strict=True):
            same = prefix.logprobs is not None and prefix.ids == tuple(one.ids)
            found.append((prefix.logprobs or ())[start:] if same else None)
        return [*found, ()]


def _starts_with(ids: list[int], start: list[int]) -> bool:
    return ids[: len(start)] == start


def _step_scores(place: int, text: str, encoded: EncodedResponse, token_rewards: list[float]) -> StepScores:
    if not encoded.spans:
        return StepScores(text, [], [], [], index=place, step_tokens=[])
    step_of_token = torch.tensor(encoded.step_of_token, dtype=torch.long)
    steps, prefixes = implicit_reward.step_rewards(torch.tensor(token_rewards), step_of_token, len(encoded.spans))
    return StepScores(
        text,
        encoded.spans,
        steps.tolist(),
        prefixes.tolist(),
        index=place,
        step_tokens=step_of_token.bincount(minlength=len(encoded.spans)).tolist(),
    )
