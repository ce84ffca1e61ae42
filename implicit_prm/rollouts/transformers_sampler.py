"""Sampling with transformers, in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from implicit_prm.config import PolicyConfig, SamplingConfig, TextConfig
from implicit_prm.data.tokenization import Encoder, context_length
from implicit_prm.models import forward, loading
from implicit_prm.models.source import ModelSource
from implicit_prm.rollouts.generation import generate
from implicit_prm.types import Problem, Samples
from implicit_prm.utils.distributed import Processes


class TransformersSampler:
    """Samples in fixed batches of consecutive problems, each with its own random numbers, whichever process takes it.

    Raises:
        ImplicitPRMError: the model cannot be opened, or lacks a chat template that the prompts need.
    """

    def __init__(self, policy: PolicyConfig, sampling: SamplingConfig, text: TextConfig) -> None:
        self._policy, self._sampling = policy, sampling
        self._source = ModelSource.of(policy)
        self._encoder = Encoder(loading.open_tokenizer(self._source), text)
        self.identity = policy_identity(self._source, self._encoder)

    def sample(self, problems: Sequence[Problem], done: Container[str], processes: Processes) -> Iterator[Samples]:
        """Responses to this process's share of the problems whose id is not in `done`, in order."""
        seed = self._sampling.seed
        assert seed is not None  # RolloutConfig.validate
        model = open_for_sampling(self._source, self._policy)
        context = context_length(model.config, None)
        size = self._sampling.problems_per_batch
        # The last bits of logits vary with the batch, so batches are cut before finished problems are skipped.
        batches = [(start, problems[start : start + size]) for start in range(0, len(problems), size)]
        unfinished = [(start, batch) for start, batch in batches if any(problem.id not in done for problem in batch)]
        for start, batch in unfinished[processes.rank :: processes.size]:
            refused = {problem.id: self._too_long(problem, context) for problem in batch}
            fitting = [place for place, problem in enumerate(batch) if refused[problem.id] is None]
            seeds = [(seed, start + place) for place in fitting]
            found = sample(model, self._encoder, [batch[place] for place in fitting], self._sampling, seeds)
            sampled = iter(found)
            for problem in batch:
                reason = refused[problem.id]
                samples = next(sampled) if reason is None else Samples(problem, [], [], refused=reason)
                if problem.id not in done:
                    yield samples

    def _too_long(self, problem: Problem, context: int | None) -> str | None:
        return too_long(len(self._encoder.prompt_ids(problem.text)), self._sampling.max_new_tokens, context)


def too_long(prompt: int, max_new_tokens: int, context: int | None) -> str | None:
    """Why a prompt of so many tokens cannot be sampled; None if it fits into the model's context."""
    if context is None or prompt + max_new_tokens <= context:
        return None
    return (
        f"the prompt of {prompt} tokens and sampling.max_new_tokens={max_new_tokens} exceed the model's context of "
        f"{context} tokens"
    )


def policy_identity(source: ModelSource, encoder: Encoder) -> dict[str, Any]:
    """What a record says of a policy in this process, besides the options."""
    template = None if encoder.raw else str(encoder.tokenizer.chat_template)
    return {
        "model": source.weights(),
        "chat_template_sha256": template and hashlib.sha256(template.encode()).hexdigest()[:16],
    }


def open_for_sampling(source: ModelSource, policy: PolicyConfig) -> Any:
    """The policy on the best device.

    Args:
        source: where the policy's files are.
        policy: its dtype and attention implementation.
    """
    model: Any = loading.open_model(source, policy.dtype, policy.attn_implementation)
    return model.to(forward.best_device())


# As `numpy.random.default_rng` takes it.
Seed = int | tuple[int, int]


def sample(
    model: Any, encoder: Encoder, problems: Sequence[Problem], sampling: SamplingConfig, seeds: Sequence[Seed]
) -> list[Samples]:
    """Sample `sampling.n` responses to each problem, in one batch. Every problem has a seed of its own."""
    contexts = [encoder.prompt_ids(problem.text) for problem in problems]
    return [
        Samples(
            problem,
            [decoded(encoder, row.ids) for row in rows],
            [row.finished for row in rows],
            sum(row.tokens for row in rows),
        )
        for problem, rows in zip(problems, _rows(model, encoder, contexts, sampling, seeds), strict=True)
    ]


@dataclass(frozen=True)
class Prefix:
    """The token ids of a prompt and of the beginning of a response to it, and the seed of its continuations."""

    prompt_ids: Sequence[int]
    ids: Sequence[int]
    seed: Seed


@dataclass(frozen=True)
class Completed:
    """The completed responses of a prefix, and the number of tokens generated for all of them."""

    texts: list[str]
    tokens: int


def complete(model: Any, encoder: Encoder, prefixes: Sequence[Prefix], sampling: SamplingConfig) -> list[Completed]:
    """Sample `sampling.n` continuations of each prefix, in one batch, from the same distribution as `sample`."""
    contexts = [[*one.prompt_ids, *one.ids] for one in prefixes]
    generated = _rows(model, encoder, contexts, sampling, [one.seed for one in prefixes])
    return [
        # Decoded with the prefix: some tokenizers decode the first token of a text differently.
        Completed([decoded(encoder, [*one.ids, *row.ids]) for row in found], sum(row.tokens for row in found))
        for one, found in zip(prefixes, generated, strict=True)
    ]


@dataclass(frozen=True)
class _Row:
    """A generated row without its end of turn, which `tokens` includes."""

    ids: list[int]
    finished: bool
    tokens: int


def _rows(
    model: Any,
    encoder: Encoder,
    contexts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    seeds: Sequence[Seed],
) -> list[list[_Row]]:
    """Generate `sampling.n` rows for each context, up to their end-of-turn tokens."""
    if not contexts:
        return []
    numbers = [np.random.default_rng(seed).random((sampling.n, sampling.max_new_tokens)) for seed in seeds]
    ends = encoder.ends
    generated = generate(model, contexts, torch.from_numpy(np.concatenate(numbers)), ends, warpers(sampling))
    rows = [_Row(ids[:-1], True, len(ids)) if ids[-1] in ends else _Row(ids, False, len(ids)) for ids in generated]
    return [rows[start : start + sampling.n] for start in range(0, len(rows), sampling.n)]


def warpers(sampling: SamplingConfig) -> list[Any]:
    """The logits processors of temperature and top-p.

    Nothing else shapes the distribution: with the top-k or repetition penalty of a model's generation config, the
    reference would assign other log-probabilities than the responses were sampled with.
    """
    found: list[Any] = [TemperatureLogitsWarper(sampling.temperature)] if sampling.temperature != 1 else []
    return found + ([TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else [])


def decoded(encoder: Encoder, ids: Sequence[int]) -> str:
    """The text of a response, without special tokens."""
    return str(encoder.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
