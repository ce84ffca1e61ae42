"""Score responses while a search extends them, from the new tokens alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from implicit_prm.models.cached_rows import CachedRows, RescoredRows, open_rows
from implicit_prm.models.checkpoint import NONE, CheckpointMetadata
from implicit_prm.models.reference import reference_model
from implicit_prm.models.shared_prompt import Ids
from implicit_prm.rewards.implicit_reward import response_rewards, token_log_ratio, token_rewards
from implicit_prm.types import ImplicitPRMError, ScoredStep


@dataclass(frozen=True)
class _Row:
    """A response: its tokens, q at the last one, and how many at its end the reference has not read."""

    ids: list[int]
    prefix_value: float = 0.0
    unread: int = 0


class Session:
    """The responses to one problem that a search extends, and what the models have computed for them.

    `ImplicitPRM.open` makes it, with one row: the empty response. The rewards are those of the whole responses, as
    `ImplicitPRM.token_rewards` computes them, but for rounding. A model whose keys and values cannot be kept (a
    recurrent one, for example) is run on the whole responses instead.

    Examples:
        >>> session = prm.open(problem)
        >>> steps = session.extend([[5, 6, 7], [5, 8]], parents=[0, 0])   # two first steps
        >>> session.select([1, 1])                                        # keep the second, twice
        >>> steps = session.extend([[9], [10, 11]])

    Args:
        policy: the trained causal LM, or a PEFT model.
        reference: as for `ImplicitPRM`.
        metadata: beta, and what the reference is.
        prompt_ids: tokens of the prompt.
        max_tokens: new tokens in one forward pass, padding included.
        check_length: takes the length of a response with its prompt, in tokens, and its row; raises an error if it is
            too long.
    """

    def __init__(
        self,
        policy: Any,
        reference: PreTrainedModel | None,
        metadata: CheckpointMetadata,
        prompt_ids: Ids,
        max_tokens: int,
        check_length: Callable[[int, int], None],
    ) -> None:
        self._models, self._metadata = (policy, reference), metadata
        self._prompt_ids, self._max_tokens, self._check_length = prompt_ids, max_tokens, check_length
        check_length(len(prompt_ids), 0)
        self._rows = [_Row([])]
        self._policy = open_rows(policy, prompt_ids, max_tokens)
        # Opened on first use, which never comes if the generator is the reference.
        self._reference: CachedRows | RescoredRows | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    @property
    def ids(self) -> list[list[int]]:
        """Tokens of each response."""
        return [list(row.ids) for row in self._rows]

    @property
    def tokens(self) -> int:
        """Tokens that ran through policy and reference so far, without padding."""
        return self._policy.tokens + (0 if self._reference is None else self._reference.tokens)

    def select(self, indices: Sequence[int]) -> None:
        """Replace the rows by those at `indices`, which may repeat and need not be in order.

        Raises:
            ImplicitPRMError: there is no such row.
        """
        self._check_rows("indices", indices)
        self._rows = [self._rows[index] for index in indices]
        self._policy.select(indices)
        if self._reference is not None:
            self._reference.select(indices)

    def extend(
        self,
        ids: Sequence[Ids],
        parents: Sequence[int] | None = None,
        reference_logprobs: Sequence[Sequence[float] | None] | None = None,
    ) -> list[ScoredStep]:
        """Replace the rows by continuations of them, and score the new tokens.

        Args:
            ids: new tokens of each continuation, the end-of-turn token included if the response ends. Without new
                tokens, a response stays as it is.
            parents: the row that each continues; by default continuation i continues row i.
            reference_logprobs: log-probabilities of the new tokens under the reference, in nats; the reference is then
                not run. A generator that is the reference knows them from sampling (before temperature and top-p).
                None for a continuation whose log-probabilities are not known: the reference runs on this one.

        Returns:
            One `ScoredStep` per continuation.

        Raises:
            ImplicitPRMError: arguments of different lengths, no such row, a response over the model's context or
                `max_length`, or log-probabilities that are not finite.
        """
        chosen = range(len(self)) if parents is None else parents
        self._check_extension(ids, chosen, reference_logprobs)
        before = self._rows, self._policy, self._reference
        # An extension that fails or is interrupted must change nothing; the copies share what was computed before.
        self._policy, self._reference = copy.copy(self._policy), copy.copy(self._reference)
        try:
            return self._extended(ids, chosen, reference_logprobs)
        except BaseException:
            self._rows, self._policy, self._reference = before
            raise

    def _extended(
        self, ids: Sequence[Ids], chosen: Sequence[int], reference_logprobs: Sequence[Sequence[float] | None] | None
    ) -> list[ScoredStep]:
        self.select(chosen)
        policy = self._policy.extend(ids)
        given: Sequence[Sequence[float] | None] = reference_logprobs or [None] * len(ids)
        reference = self._reference_logprobs(ids, given)
        steps = []
        for place, (row, new) in enumerate(zip(self._rows, ids, strict=True)):
            known = None if reference is None else reference[place]
            rewards = response_rewards(policy[place], known, self._metadata.beta, place).tolist()
            step = ScoredStep(math.fsum(rewards), row.prefix_value + math.fsum(rewards), rewards)
            unread = 0 if given[place] is None else row.unread + len(new)
            self._rows[place] = _Row([*row.ids, *new], step.prefix_value, unread)
            steps.append(step)
        return steps

    def next_token_rewards(self, row: int) -> Tensor:
        """Rewards of every possible next token of a response.

        Args:
            row: the response.

        Returns:
            [V] float32, beta * (log pi_theta - log pi_ref) of each token of the vocabulary, on the CPU.

        Raises:
            ImplicitPRMError: there is no such row.
        """
        self._check_rows("row", [row])
        policy, reference = self._policy.next_logprobs(row), None
        if self._metadata.reference != NONE:
            with reference_model(*self._models) as model:
                rows = self._open_reference(model)
                rows.extend(self._unread())
                self._rows = [_Row(one.ids, one.prefix_value) for one in self._rows]
                reference = rows.next_logprobs(row)
            # The embeddings may be padded to different sizes of the vocabulary.
            width = min(len(policy), len(reference))
            policy, reference = policy[:width], reference[:width]
        ratio = token_log_ratio(policy, reference, torch.ones_like(policy, dtype=torch.bool))
        return token_rewards(ratio, self._metadata.beta)

    def _reference_logprobs(self, ids: Sequence[Ids], given: Sequence[Sequence[float] | None]) -> list[Tensor] | None:
        """[T] reference log-probabilities of the new tokens of each row; None if there is no reference."""
        if self._metadata.reference == NONE:
            return None
        found = [torch.as_tensor([] if values is None else values, dtype=torch.float32) for values in given]
        unknown = [place for place, values in enumerate(given) if values is None]
        if unknown:
            unread, new = self._unread(), [list[int]() for _ in ids]
            for place in unknown:
                new[place] = [*unread[place], *ids[place]]
            with reference_model(*self._models) as model:
                computed = self._open_reference(model).extend(new)
            for place in unknown:
                found[place] = computed[place][len(unread[place]) :]
        return found

    def _unread(self) -> list[list[int]]:
        """Tokens of each row that the reference has not read."""
        return [row.ids[len(row.ids) - row.unread :] for row in self._rows]

    def _open_reference(self, model: Any) -> CachedRows | RescoredRows:
        if self._reference is None:
            self._reference = open_rows(model, self._prompt_ids, self._max_tokens)
            self._reference.select([0] * len(self))
        return self._reference

    def _check_extension(
        self, ids: Sequence[Ids], parents: Sequence[int], reference_logprobs: Sequence[Sequence[float] | None] | None
    ) -> None:
        if len(ids) != len(parents):
            raise ImplicitPRMError(f"ids: expected {len(parents)} continuations, one per parent, got {len(ids)}")
        self._check_rows("parents", parents)
        for place, (new, parent) in enumerate(zip(ids, parents, strict=True)):
            self._check_length(len(self._prompt_ids) + len(self._rows[parent].ids) + len(new), place)
        if reference_logprobs is None:
            return
        if self._metadata.reference == NONE:
            raise ImplicitPRMError("reference_logprobs: this model has no reference; leave them out")
        expected = [len(new) for new in ids]
        sizes = [None if values is None else len(values) for values in reference_logprobs]
        if len(sizes) != len(ids) or any(size not in (None, one) for size, one in zip(sizes, expected, strict=True)):
            raise ImplicitPRMError(
                f"reference_logprobs: expected one for each new token, {expected} for the rows, got {sizes}"
            )

    def _check_rows(self, name: str, rows: Sequence[int]) -> None:
        for row in rows:
            if not 0 <= row < len(self):
                raise ImplicitPRMError(f"{name}: there is no row {row}; expected 0 to {len(self) - 1}")
