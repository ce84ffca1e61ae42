"""A batch of rollouts: the responses of all processes to a few prompts, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from implicit_prm.types import Prompt


@dataclass(frozen=True)
class Rollout:
    """A response as the policy sampled it.

    Args:
        prompt: a text or a chat, as in the dataset.
        prompt_ids: tokens of the prompt, as the policy read them.
        ids: [T] tokens of the response; none if it is left out of training.
    """

    prompt: Prompt
    prompt_ids: list[int]
    ids: list[int]


@dataclass(frozen=True)
class RolloutGroup:
    """The rollouts of one prompt.

    Args:
        number: of the prompt in the batch.
        prompt: a text or a chat.
        prompt_ids: tokens of the prompt.
        places: [K] rows of the batch.
        responses: [K] tokens of the responses, none of them empty.
    """

    number: int
    prompt: Prompt
    prompt_ids: list[int]
    places: list[int] = field(default_factory=list)
    responses: list[list[int]] = field(default_factory=list)


class RolloutBatch:
    """The rollouts of all processes, in the same order in each of them.

    Rollouts with the same prompt tokens are a group, wherever they stand.

    Args:
        rollouts: [N] of all processes.
    """

    def __init__(self, rollouts: Sequence[Rollout]) -> None:
        self.rollouts = list(rollouts)
        by_prompt: dict[tuple[int, ...], RolloutGroup] = {}
        numbers = []
        for place, one in enumerate(self.rollouts):
            new = RolloutGroup(len(by_prompt), one.prompt, one.prompt_ids)
            group = by_prompt.setdefault(tuple(one.prompt_ids), new)
            numbers.append(group.number)
            if one.ids:
                group.places.append(place)
                group.responses.append(one.ids)
        self.groups = list(by_prompt.values())
        self.group_of_row = torch.tensor(numbers)

    @cached_property
    def completion_mask(self) -> Tensor:
        """[N, T] bool, true at tokens of the response."""
        lengths = torch.tensor([len(one.ids) for one in self.rollouts])
        return torch.arange(max(int(lengths.max()), 1)) < lengths[:, None]

    def padded(self, rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
        """[N, T] values of tokens, zero outside the responses.

        Args:
            rows: [N] lists with a value for each token.
            dtype: of the result.
        """
        flat = torch.tensor([value for row in rows for value in row], dtype=dtype)
        return torch.zeros_like(self.completion_mask, dtype=dtype).masked_scatter(self.completion_mask, flat)


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens at which sampling from a model stops, as TRL collects them; a model may have several.

    Args:
        model: with a generation config.
        tokenizer: the model's.
    """
    found = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(found if isinstance(found, list) else [found])} - {None}
