"""An implicit PRM as a guide: its caches grow with the search, so only new tokens are computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from implicit_prm.data.tokenization import EncodedResponse
from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.models.session import Session
from implicit_prm.rewards import implicit_reward
from implicit_prm.search.protocols import Prefix
from implicit_prm.types import Prompt, StepScores


class SessionGuide:
    """Scores the prefixes of responses to one problem, see `Guide`.

    Where the text of a longer prefix has other tokens than its beginning had, all prefixes are computed again.

    Args:
        prm: the model.
        prompt: of the problem.
        max_tokens: in one forward pass, padding included; None for a default by device.
        generator_is_reference: take the reference's log-probabilities from the prefixes.
    """

    def __init__(
        self, prm: ImplicitPRM, prompt: Prompt, max_tokens: int | None = None, generator_is_reference: bool = False
    ) -> None:
        self._prm, self._prompt, self._max_tokens = prm, prompt, max_tokens
        self._generator_is_reference = generator_is_reference
        self._session: Session | None = None
        self._rewards: list[list[float]] = [[]]  # of the tokens in each slot
        self._closed = 0  # tokens of sessions that were given up

    @property
    def tokens(self) -> int:
        """That ran through policy and reference."""
        return self._closed + (0 if self._session is None else self._session.tokens)

    def score(self, prefixes: Sequence[Prefix], parents: Sequence[int]) -> list[StepScores]:
        """Score the new tokens of the prefixes; see `Guide`."""
        encoded = self._prm.encoder.responses([prefix.text for prefix in prefixes], [p.finished for p in prefixes])
        if self._session is None:
            self._session = self._opened()
        old = [self._session.ids[parent] for parent in parents]
        if any(one.ids[: len(start)] != list(start) for one, start in zip(encoded, old, strict=True)):
            self._closed = self.tokens
            self._session, self._rewards = self._opened(), [[]]
            parents, old = [0] * len(prefixes), [[]] * len(prefixes)
        starts = list(map(len, old))
        new = [one.ids[start:] for one, start in zip(encoded, starts, strict=True)]
        scored = self._session.extend(new, parents, self._reference_logprobs(prefixes, encoded, starts))
        self._rewards = [
            self._rewards[parent] + step.token_rewards for parent, step in zip(parents, scored, strict=True)
        ]
        return [
            _step_scores(place, prefix.text, encoded[place], self._rewards[place])
            for place, prefix in enumerate(prefixes)
        ]

    def _opened(self) -> Session:
        return self._prm.open(self._prompt, max_tokens=self._max_tokens)

    def _reference_logprobs(
        self, prefixes: Sequence[Prefix], encoded: Sequence[EncodedResponse], starts: Sequence[int]
    ) -> list[list[float]] | None:
        """Those of the new tokens, if the generator is the reference and generated exactly these tokens."""
        if not self._generator_is_reference:
            return None
        same = all(prefix.ids == tuple(one.ids) for prefix, one in zip(prefixes, encoded, strict=True))
        if not same or any(prefix.logprobs is None for prefix in prefixes):
            return None
        return [list((prefix.logprobs or ())[start:]) for prefix, start in zip(prefixes, starts, strict=True)]


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
