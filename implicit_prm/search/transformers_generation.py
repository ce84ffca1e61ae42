"""Generation in this process: rows keep their cache from round to round, and wait for each other at ends of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from implicit_prm.config import SamplingConfig
from implicit_prm.data.tokenization import Encoder
from implicit_prm.rollouts.generation import draw
from implicit_prm.rollouts.transformers_sampler import Seed, decoded, warpers
from implicit_prm.search.mixed_rows import Rows
from implicit_prm.search.protocols import Prefix
from implicit_prm.search.step_ends import StepEnds


class TransformersGeneration:
    """The responses to one problem, see `Generation`.

    Without selection, slot i becomes response i of `rollouts.transformers_sampler.sample` with the same seed.

    Args:
        open_rows: opens rows that start with the prompt and these tokens of a response.
        encoder: of the generator.
        prompt_tokens: number of tokens of the prompt.
        sampling: how tokens are drawn.
        seed: of this problem.
        step_ends: where `extend` stops; None generates whole responses.
        keep_logprobs: whether prefixes hold the log-probabilities of their tokens.
        models: how many models of the generator (0 or 1) and of the guide compute every token.
    """

    def __init__(
        self,
        open_rows: Callable[[Sequence[Sequence[int]]], Rows],
        encoder: Encoder,
        prompt_tokens: int,
        sampling: SamplingConfig,
        seed: Seed,
        step_ends: StepEnds | None = None,
        keep_logprobs: bool = False,
        models: tuple[int, int] = (1, 0),
    ) -> None:
        self._open_rows, self._encoder, self._step_ends = open_rows, encoder, step_ends
        self._limit, self._warpers = sampling.max_new_tokens, warpers(sampling)
        self._numbers = SlotNumbers(seed, sampling.n, sampling.max_new_tokens)
        self._prefixes = [Prefix(logprobs=() if keep_logprobs else None)]
        self._rows: Rows | None = None
        self._row_of_slot = {0: 0}
        self._prompt_tokens, self._computed, self._models = prompt_tokens, prompt_tokens, models

    @property
    def tokens(self) -> int:
        """That the generator has computed."""
        return self._models[0] * self._computed

    @property
    def guide_tokens(self) -> int:
        """That the guide's models have computed."""
        return self._models[1] * self._computed

    @torch.inference_mode()
    def extend(self, parents: Sequence[int]) -> list[Prefix]:
        """Continue every open prefix to the end of its step; see `Generation`."""
        prefixes = [self._prefixes[parent] for parent in parents]
        slots = [slot for slot, prefix in enumerate(prefixes) if not prefix.done]
        if slots:
            rows = self._started(prefixes, [parents[slot] for slot in slots], slots)
            for slot, grown in zip(slots, self._grown(rows, [prefixes[slot] for slot in slots], slots), strict=True):
                prefixes[slot] = grown
        self._row_of_slot = {slot: row for row, slot in enumerate(slots)}
        self._prefixes = prefixes
        return prefixes

    def _started(self, prefixes: Sequence[Prefix], parents: Sequence[int], slots: Sequence[int]) -> Rows:
        """Rows that hold the prefixes of the slots."""
        if self._rows is None:
            self._rows = self._open_rows([()])
        elif not self._rows.can_wait:  # their states have gone on while others were continued
            begun = [prefixes[slot].ids or () for slot in slots]
            self._rows = self._open_rows(begun)
            self._computed += sum(self._prompt_tokens + len(ids) for ids in begun)
            return self._rows
        self._rows.keep(
            torch.tensor([self._row_of_slot[parent] for parent in parents], device=self._rows.logits.device)
        )
        return self._rows

    def _grown(self, rows: Rows, prefixes: Sequence[Prefix], slots: Sequence[int]) -> list[Prefix]:
        """The prefixes with one more step each; `rows` then hold all of it, and are waiting for the next token."""
        ids = [list(prefix.ids or ()) for prefix in prefixes]
        logprobs = [list(prefix.logprobs or ()) for prefix in prefixes]
        starts = list(map(len, ids))
        growing = list(range(len(ids)))
        while growing:
            tokens, found = self._drawn(rows.logits, growing, slots)
            waiting = torch.ones(len(ids), dtype=torch.bool)
            waiting[growing] = False
            for row, token, logprob in zip(growing, tokens.tolist(), found.tolist(), strict=True):
                ids[row].append(token)
                logprobs[row].append(logprob)
            self._computed += len(growing)
            growing = [row for row in growing if not self._stops(ids[row], starts[row])]
            if growing or self._continues(ids):
                step = torch.zeros(len(ids), dtype=torch.long, device=tokens.device)
                step[~waiting.to(step.device)] = tokens
                may_wait = rows.can_wait and bool(waiting.any())
                rows.append(step, waiting.to(step.device) if may_wait else None)
        return [self._prefix(prefix, ids[row], logprobs[row]) for row, prefix in enumerate(prefixes)]

    def _drawn(self, logits: Tensor, growing: Sequence[int], slots: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A token for each growing row, and its log-probability at temperature 1."""
        logits = logits[list(growing)]
        warped = logits
        for warper in self._warpers:
            warped = warper(None, warped)
        numbers = self._numbers.take([slots[row] for row in growing])
        tokens = draw(warped, torch.from_numpy(numbers).to(logits.device))
        return tokens, logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]

    def _stops(self, ids: Sequence[int], start: int) -> bool:
        return self._is_done(ids) or (self._step_ends is not None and self._step_ends.reached(ids, start))

    def _is_done(self, ids: Sequence[int]) -> bool:
        return ids[-1] in self._encoder.ends or len(ids) >= self._limit

    def _continues(self, ids: Sequence[Sequence[int]]) -> bool:
        """Whether another round needs the rows."""
        return self._step_ends is not None and not all(map(self._is_done, ids))

    def _prefix(self, before: Prefix, ids: list[int], logprobs: list[float]) -> Prefix:
        finished = ids[-1] in self._encoder.ends
        return replace(
            before,
            text=decoded(self._encoder, ids[:-1] if finished else ids),
            ids=tuple(ids),
            logprobs=None if before.logprobs is None else tuple(logprobs),
            finished=finished,
            cut_off=not finished and len(ids) >= self._limit,
        )


class SlotNumbers:
    """Uniform random numbers for each slot, never used twice: also not by a prefix that replaces another one.

    Args:
        seed: of the problem.
        slots: how many there are.
        block: how many numbers a slot gets at first.
    """

    def __init__(self, seed: Seed, slots: int, block: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._shape = (slots, block)
        self._numbers = self._rng.random(self._shape)
        self._used = np.zeros(slots, dtype=int)

    def take(self, slots: Sequence[int]) -> Any:
        """[len(slots)] float64 in [0, 1), the next number of each slot."""
        places = self._used[list(slots)]
        if places.max() >= self._numbers.shape[1]:
            self._numbers = np.hstack([self._numbers, self._rng.random(self._shape)])
        self._used[list(slots)] += 1
        return self._numbers[list(slots), places]
