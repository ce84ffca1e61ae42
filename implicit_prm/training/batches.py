"""The items of a training batch: prompts with all of their responses, or single responses (`ResponseDataset`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from implicit_prm.data.tokenization import EncodedGroup, key_of
from implicit_prm.models.reference_cache import ReferenceCache
from implicit_prm.models.shared_prompt import Ids
from implicit_prm.rewards.losses import LossInputs
from implicit_prm.types import ImplicitPRMError


@dataclass(frozen=True)
class ResponseRows:
    """Token ids of responses, and the [T] float32 reference log-probabilities of each in nats; None: no reference."""

    ids: list[Ids]
    reference: list[np.ndarray] | None

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, other: ResponseRows) -> ResponseRows:
        reference = None
        if self.reference is not None and other.reference is not None:
            reference = self.reference + other.reference
        return ResponseRows(self.ids + other.ids, reference)

    def take(self, places: Sequence[int]) -> ResponseRows:
        """The rows at the given places."""
        reference = None if self.reference is None else [self.reference[place] for place in places]
        return ResponseRows([self.ids[place] for place in places], reference)


@dataclass(frozen=True)
class TrainingGroup:
    """A prompt with its responses, their labels and steps.

    Attributes:
        rows: the responses.
        labels: one per response.
        step_of_token: one list per response, one step number per token.
        mismatched: responses to another prompt, for KTO's estimate of the KL.
        step_labels: one list per response, one label per step, NaN if the step has none; None if the loss uses none.
    """

    prompt_ids: Ids
    rows: ResponseRows
    labels: list[bool]
    step_of_token: list[Ids]
    mismatched: ResponseRows = field(default_factory=lambda: ResponseRows([], None))
    step_labels: list[Sequence[float]] | None = None

    def __add__(self, other: TrainingGroup) -> TrainingGroup:
        """The responses of both, which have the same prompt."""
        step_labels = None
        if self.step_labels is not None and other.step_labels is not None:
            step_labels = self.step_labels + other.step_labels
        return TrainingGroup(
            self.prompt_ids,
            self.rows + other.rows,
            self.labels + other.labels,
            self.step_of_token + other.step_of_token,
            self.mismatched + other.mismatched,
            step_labels,
        )

    def take(self, places: Sequence[int]) -> TrainingGroup:
        """The group with only the responses at the given places."""
        return replace(
            self,
            rows=self.rows.take(places),
            labels=[self.labels[place] for place in places],
            step_of_token=[self.step_of_token[place] for place in places],
            step_labels=None if self.step_labels is None else [self.step_labels[place] for place in places],
        )


# Padding item: keeps ranks with fewer prompts in the collectives. It has no response; its prompt is for FSDP's forward
# passes, in which every rank takes part.
PADDING = TrainingGroup([0, 0], ResponseRows([], None), [], [], step_labels=[])


class GroupDataset(Dataset):
    """Encoded groups as `TrainingGroup`s. The index after the last group is `PADDING`.

    Args:
        groups: prompts with all of their responses.
        mismatched: add responses to another prompt (unpaired KTO).
        limit_tokens: truncate those so that prompt and response fit the model's context.
        step_labels: add the step labels (loss=steps, explicit reward models).

    Attributes:
        cache: the reference log-probabilities; None if the reward is beta * log pi_theta.
    """

    def __init__(
        self,
        groups: Sequence[EncodedGroup],
        mismatched: bool = False,
        limit_tokens: int | None = None,
        step_labels: bool = False,
    ) -> None:
        if mismatched and len(groups) < 2:
            raise ImplicitPRMError(
                "loss=kto needs at least two prompts, in the dev set as well: its KL is estimated on mismatched pairs"
            )
        self.groups, self.mismatched, self.limit_tokens = groups, mismatched, limit_tokens
        self.step_labels = step_labels
        self.cache: ReferenceCache | None = None

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, place: int) -> TrainingGroup:
        if place == len(self.groups):
            return PADDING
        return self.part(place, range(len(self.groups[place].responses)))

    def part(self, place: int, numbers: Sequence[int]) -> TrainingGroup:
        """A prompt with some of its responses, and as many of the mismatched ones."""
        group = self.groups[place]
        responses = [group.responses[number] for number in numbers]
        mismatched = self._mismatched_ids(group, place)
        others = [mismatched[number] for number in numbers] if mismatched else []
        return TrainingGroup(
            list(group.prompt_ids),
            self._rows(group, [one.ids for one in responses], [one.key for one in responses]),
            [group.labels[number] for number in numbers],
            [response.step_of_token for response in responses],
            self._rows(group, others, [key_of(group.prompt_ids, ids) for ids in others]),
            [list(one.step_labels or []) for one in responses] if self.step_labels else None,
        )

    def tokens(self) -> list[int]:
        """Tokens of each prompt and its responses together."""
        return [sum(map(len, (group.prompt_ids, *(one.ids for one in group.responses)))) for group in self.groups]

    def requests(self) -> Iterator[tuple[Ids, list[Ids], list[bytes]]]:
        """Each prompt with the responses whose reference log-probabilities an item holds, and their keys."""
        for place, group in enumerate(self.groups):
            others = self._mismatched_ids(group, place)
            ids = [*(response.ids for response in group.responses), *others]
            keys = [*(one.key for one in group.responses), *(key_of(group.prompt_ids, one) for one in others)]
            yield group.prompt_ids, ids, keys

    def _mismatched_ids(self, group: EncodedGroup, place: int) -> list[Ids]:
        if not self.mismatched:
            return []
        other = self.groups[(place + 1) % len(self.groups)].responses
        room = None if self.limit_tokens is None else self.limit_tokens - len(group.prompt_ids)
        return [other[number % len(other)].ids[:room] for number in range(len(group.responses))]

    def _rows(self, group: EncodedGroup, responses: list[Ids], keys: list[bytes]) -> ResponseRows:
        """The responses with their reference log-probabilities, as lists: arrays on disk cannot go to a data worker."""
        ids: list[Ids] = [list(one) for one in responses]
        if self.cache is None:
            return ResponseRows(ids, None)
        reference = []
        for one, key in zip(ids, keys, strict=True):
            values = self.cache.get(key, len(one))
            if values is None:
                raise ImplicitPRMError(f"{group.name}: no reference log-probabilities in {self.cache.folder}")
            reference.append(values)
        return ResponseRows(ids, reference)


class ResponseDataset(Dataset):
    """The responses of a `GroupDataset` one by one, each a `TrainingGroup` of one response; then `PADDING`."""

    def __init__(self, groups: GroupDataset) -> None:
        self.groups = groups
        self._places = [(place, k) for place, group in enumerate(groups.groups) for k in range(len(group.responses))]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> TrainingGroup:
        if number == len(self._places):
            return PADDING
        place, response = self._places[number]
        return self.groups.part(place, [response])

    def tokens(self) -> list[int]:
        """Tokens of each prompt and response together."""
        return [length for group in self.groups.groups for length in group.lengths]


class GroupSampler(Sampler[int]):
    """Indices of all groups, shuffled anew every epoch and padded with the index of `PADDING` to a multiple.

    With a multiple of batch size x processes, every process gets the same number of batches, and no prompt counts
    twice, as it would if the first prompts filled up the last batch.

    Several processes wait for each other in every optimiser step. Its items, whose order changes nothing but rounding,
    are therefore ordered so that every process gets about as many tokens.

    Args:
        size: number of groups.
        multiple: the length is padded to a multiple of it.
        seed: of the order; the epoch is added.
        shuffle: False keeps the order of the optimiser steps' items.
        processes: how many take batches in turn.
        accumulation: batches of each process in an optimiser step.
        tokens: [size] of each group; needed for several processes.
    """

    def __init__(
        self,
        size: int,
        multiple: int,
        seed: int,
        shuffle: bool = True,
        *,
        processes: int = 1,
        accumulation: int = 1,
        tokens: Sequence[int] = (),
    ) -> None:
        self.size, self.seed, self.shuffle, self.epoch = size, seed, shuffle, 0
        self.padding = -size % multiple
        self.multiple, self.processes, self.accumulation = multiple, processes, accumulation
        self._tokens = [*tokens, 0]  # `PADDING` has none

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the order depends. The data loader calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size + self.padding

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.size, generator=generator) if self.shuffle else torch.arange(self.size)
        items = [*order.tolist(), *[self.size] * self.padding]
        if self.processes == 1:
            yield from items
            return
        window = self.multiple * self.accumulation
        for start in range(0, len(items), window):
            yield from self._balanced(items[start : start + window])

    def _balanced(self, step: Sequence[int]) -> list[int]:
        """The items of an optimiser step, batch by batch, which go to the processes in turn.

        The longest come first, and the process with the fewest tokens so far gets the longest of the next ones. So the
        processes have about as many tokens together, and in each of their batches.
        """
        step = sorted(step, key=lambda item: -self._tokens[item])
        load, balanced = [0] * self.processes, list[int]()
        for start in range(0, len(step), self.multiple):
            batches: list[list[int]] = [[] for _ in load]
            for row in range(start, start + self.multiple, self.processes):
                fewest_first = sorted(range(self.processes), key=load.__getitem__)
                for process, item in zip(fewest_first, step[row : row + self.processes], strict=True):
                    batches[process].append(item)
                    load[process] += self._tokens[item]
            balanced += chain.from_iterable(batches)
        return balanced


def collate(items: Sequence[TrainingGroup]) -> dict[str, list[TrainingGroup]]:
    """A micro-batch: a list of groups. Each has forward passes of its own, so nothing is padded here."""
    return {"groups": list(items)}


def collate_responses(items: Sequence[TrainingGroup]) -> dict[str, list[TrainingGroup]]:
    """A micro-batch of single responses. Those that have the same prompt become one group."""
    groups: dict[bytes, TrainingGroup] = {}
    for item in items:
        key = np.asarray(item.prompt_ids, dtype=np.int64).tobytes()
        groups[key] = groups[key] + item if key in groups else item
    return {"groups": list(groups.values())}


def loss_inputs(
    groups: Sequence[TrainingGroup], rewards: Tensor, token_rewards: Tensor | None = None, kl: Tensor | None = None
) -> LossInputs:
    """The inputs of a loss for all responses of these groups, in order.

    Args:
        groups: with R responses in total.
        rewards: [R] rewards of the responses.
        token_rewards: [R, T] rewards of their tokens, from column 0; None for losses that use sums alone.
        kl: [2] KTO's baselines.
    """
    device = rewards.device
    labels = torch.tensor([label for group in groups for label in group.labels], dtype=torch.bool, device=device)
    numbers = torch.tensor([n for n, group in enumerate(groups) for _ in group.labels], dtype=torch.long, device=device)
    inputs = LossInputs(rewards, labels, numbers, kl)
    if token_rewards is None:
        return inputs
    steps = [steps for group in groups for steps in group.step_of_token]
    lengths = torch.tensor([len(some) for some in steps], dtype=torch.long, device=device)
    mask = torch.arange(token_rewards.shape[1], device=device) < lengths[:, None]
    inputs = replace(inputs, token_rewards=token_rewards, completion_mask=mask)
    if any(group.step_labels is None for group in groups):
        return inputs
    flat = torch.tensor([step for some in steps for step in some], dtype=torch.long, device=device)
    return replace(
        inputs,
        step_of_token=torch.zeros_like(mask, dtype=torch.long).masked_scatter(mask, flat),
        step_labels=padded_step_labels(groups).to(device),
    )


def padded_step_labels(groups: Sequence[TrainingGroup]) -> Tensor:
    """[R, S] float32 labels of the steps of all responses, NaN after the last step of each."""
    rows = [torch.tensor(labels) for group in groups for labels in group.step_labels or []]
    return pad_sequence(rows, batch_first=True, padding_value=math.nan) if rows else torch.zeros(0, 1)
