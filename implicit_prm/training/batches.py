"""What a training step is made of: prompts with all of their responses, and what the reference says of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from implicit_prm.data.reference_cache import ReferenceCache, key_of
from implicit_prm.data.tokens import EncodedGroup
from implicit_prm.group_logprobs import Ids
from implicit_prm.records import ImplicitPRMError


@dataclass(frozen=True)
class Rows:
    """Responses' token ids, and the [T] float32 reference log-probabilities of each in nats; None without one."""

    ids: list[Ids]
    reference: list[np.ndarray] | None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class TrainingGroup:
    """A prompt, its responses, their labels and steps; `others` answer another prompt, for KTO's estimate of the KL."""

    prompt_ids: Ids
    rows: Rows
    labels: list[bool]
    step_of_token: list[Ids]
    others: Rows = field(default_factory=lambda: Rows([], None))


# What a process holds that got fewer prompts than the others: no response, and a prompt for the forward passes that
# it takes part in.
NOTHING = TrainingGroup([0, 0], Rows([], None), [], [])


class GroupDataset(Dataset):
    """Encoded groups as `TrainingGroup`s. The place behind the last group is `NOTHING`.

    Args:
        groups: prompts with all of their responses.
        mismatched: bring responses to another prompt too (unpaired KTO).
        limit_tokens: cut those so that prompt and response fit the model's context.

    `cache` holds the reference's log-probabilities; without one the reward is beta * log pi_theta.
    """

    def __init__(
        self, groups: Sequence[EncodedGroup], mismatched: bool = False, limit_tokens: int | None = None
    ) -> None:
        if mismatched and len(groups) < 2:
            raise ImplicitPRMError(
                "loss=kto needs at least two prompts, in the dev set as well: its KL is estimated on mismatched pairs"
            )
        self.groups, self.mismatched, self.limit_tokens = groups, mismatched, limit_tokens
        self.cache: ReferenceCache | None = None

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, place: int) -> TrainingGroup:
        if place == len(self.groups):
            return NOTHING
        group = self.groups[place]
        return TrainingGroup(
            group.prompt_ids,
            self._rows(group, [response.ids for response in group.responses]),
            group.labels,
            [response.step_of_token for response in group.responses],
            self._rows(group, self._others(place)),
        )

    def requests(self) -> list[tuple[Ids, list[Ids]]]:
        """Every prompt with all the responses that the reference must have been asked about."""
        return [
            (group.prompt_ids, [*(response.ids for response in group.responses), *self._others(place)])
            for place, group in enumerate(self.groups)
        ]

    def _others(self, place: int) -> list[Ids]:
        if not self.mismatched:
            return []
        group, other = self.groups[place], self.groups[(place + 1) % len(self.groups)].responses
        room = None if self.limit_tokens is None else self.limit_tokens - len(group.prompt_ids)
        return [other[number % len(other)].ids[:room] for number in range(len(group.responses))]

    def _rows(self, group: EncodedGroup, ids: list[Ids]) -> Rows:
        if self.cache is None:
            return Rows(ids, None)
        reference = []
        for one in ids:
            values = self.cache.get(key_of(group.prompt_ids, one), len(one))
            if values is None:
                raise ImplicitPRMError(
                    f"{group.name}: the reference's log-probabilities are not in {self.cache.folder}"
                )
            reference.append(values)
        return Rows(ids, reference)


class GroupSampler(Sampler[int]):
    """Places of all groups in an order of its own for every epoch, filled up with `NOTHING` to a multiple.

    With a multiple of batch size x processes every process gets as many batches as the others, and no prompt counts
    twice, as it would if the last batch were filled up with the first prompts.

    Args:
        size: number of groups.
        multiple: what the length is filled up to a multiple of.
        seed: of the order; the epoch is added.
        shuffle: false keeps the groups' order.
    """

    def __init__(self, size: int, multiple: int, seed: int, shuffle: bool = True) -> None:
        self.size, self.seed, self.shuffle, self.epoch = size, seed, shuffle, 0
        self.filling = -size % multiple

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader; decides the order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size + self.filling

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.size, generator=generator) if self.shuffle else torch.arange(self.size)
        yield from order.tolist()
        yield from [self.size] * self.filling


def collate(items: Sequence[TrainingGroup]) -> dict[str, list[TrainingGroup]]:
    """A micro-batch is a list of groups: each is run by itself, so nothing is padded to a common length."""
    return {"groups": list(items)}
