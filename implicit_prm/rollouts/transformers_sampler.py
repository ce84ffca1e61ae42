"""Sampling with transformers' `generate`, in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
    set_seed,
)

from implicit_prm.config import PolicyConfig, SamplingConfig, TextConfig
from implicit_prm.data.tokenization import Encoder, context_length
from implicit_prm.models import forward, loading
from implicit_prm.models.source import ModelSource
from implicit_prm.types import Problem, Samples
from implicit_prm.utils.distributed import Processes


class TransformersSampler:
    """Samples in fixed batches of consecutive problems, each with its own seed, whichever process takes it.

    Raises:
        ImplicitPRMError: the model cannot be opened, or lacks a chat template that the prompts need.
    """

    def __init__(self, policy: PolicyConfig, sampling: SamplingConfig, text: TextConfig) -> None:
        self._policy, self._sampling = policy, sampling
        self._source = ModelSource.of(policy)
        self._encoder = Encoder(loading.open_tokenizer(self._source), text)
        template = None if self._encoder.raw else str(self._encoder.tokenizer.chat_template)
        self.identity: dict[str, Any] = {
            "model": self._source.weights(),
            "chat_template_sha256": template and hashlib.sha256(template.encode()).hexdigest()[:16],
        }

    def sample(self, problems: Sequence[Problem], done: Container[str], processes: Processes) -> Iterator[Samples]:
        """Responses to this process's share of the problems whose id is not in `done`, in order."""
        seed = self._sampling.seed
        assert seed is not None  # RolloutConfig.validate
        model = open_for_sampling(self._source, self._policy)
        context = context_length(model.config, None)
        size = self._sampling.problems_per_batch
        # A batch's seed is its start, so batches are cut before finished problems are skipped.
        batches = [(start, problems[start : start + size]) for start in range(0, len(problems), size)]
        unfinished = [(start, batch) for start, batch in batches if any(problem.id not in done for problem in batch)]
        for start, batch in unfinished[processes.rank :: processes.size]:
            refused = {problem.id: self._too_long(problem, context) for problem in batch}
            fitting = [problem for problem in batch if refused[problem.id] is None]
            sampled = iter(sample(model, self._encoder, fitting, self._sampling, seed + start) if fitting else [])
            for problem in batch:
                reason = refused[problem.id]
                samples = next(sampled) if reason is None else Samples(problem, [], [], refused=reason)
                if problem.id not in done:
                    yield samples

    def _too_long(self, problem: Problem, context: int | None) -> str | None:
        prompt = len(self._encoder.prompt_ids(problem.text))
        if context is None or prompt + self._sampling.max_new_tokens <= context:
            return None
        return (
            f"the prompt of {prompt} tokens and sampling.max_new_tokens={self._sampling.max_new_tokens} exceed the "
            f"model's context of {context} tokens"
        )


def open_for_sampling(source: ModelSource, policy: PolicyConfig) -> Any:
    """The policy on the best device, without its generation defaults.

    Only temperature and top-p may shape the distribution: with a model's own top-k or repetition penalty, the reference
    would assign other log-probabilities than the responses were sampled with. `generate` takes from the model's
    generation config whatever a call leaves open, so it is reset here.

    Args:
        source: where the policy's files are.
        policy: its dtype and attention implementation.
    """
    model: Any = loading.open_model(source, policy.dtype, policy.attn_implementation)
    model.to(forward.best_device())
    model.generation_config = GenerationConfig()
    return model


def sample(
    model: Any, encoder: Encoder, problems: Sequence[Problem], sampling: SamplingConfig, seed: int
) -> list[Samples]:
    """Sample `sampling.n` responses to each problem, in one batch. `model` is from `open_for_sampling`."""
    set_seed(seed)
    options = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    generated = _generate(model, encoder, [encoder.prompt_ids(problem.text) for problem in problems], sampling, options)
    return [
        Samples(
            problem,
            [_text(encoder, row.ids) for row in rows],
            [row.finished for row in rows],
            sum(row.tokens for row in rows),
        )
        for problem, rows in zip(problems, generated, strict=True)
    ]


@dataclass(frozen=True)
class Prefix:
    """The token ids of a prompt and of the beginning of a response to it, and the seed of its continuations."""

    prompt_ids: Sequence[int]
    ids: Sequence[int]
    seed: int


def complete(model: Any, encoder: Encoder, prefixes: Sequence[Prefix], sampling: SamplingConfig) -> list[Completed]:
    """Sample `sampling.n` continuations of each prefix, in one batch, from the same distribution as `sample`.

    Every prefix has its own random numbers, so its continuations do not depend on the rest of the batch (but for
    rounding: the last bits of a row's logits vary with the batch). `model` is from `open_for_sampling`.
    """
    numbers = [np.random.default_rng(one.seed).random((sampling.n, sampling.max_new_tokens)) for one in prefixes]
    rows = [[*one.prompt_ids, *one.ids] for one in prefixes]
    warpers: list[Any] = [TemperatureLogitsWarper(sampling.temperature)] if sampling.temperature != 1 else []
    warpers += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    draw = _Draw(torch.from_numpy(np.concatenate(numbers)).to(model.device), max(map(len, rows)))
    processors = LogitsProcessorList([*warpers, draw])
    generated = _generate(model, encoder, rows, sampling, {"do_sample": False}, logits_processor=processors)
    return [
        # Decoded with the prefix: some tokenizers decode the first token of a text differently.
        Completed([_text(encoder, [*one.ids, *row.ids]) for row in found], sum(row.tokens for row in found))
        for one, found in zip(prefixes, generated, strict=True)
    ]


@dataclass(frozen=True)
class Completed:
    """The completed responses of a prefix, and the number of tokens generated for all of them."""

    texts: list[str]
    tokens: int


class _Draw(LogitsProcessor):
    """Draws each row's next token with the row's own random number, and leaves only that token to greedy search.

    Args:
        numbers: [rows, steps] float64, uniform in [0, 1).
        width: number of tokens before the first generated one.
    """

    def __init__(self, numbers: Tensor, width: int) -> None:
        self.numbers, self.width = numbers, width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        cumulative = scores.double().softmax(-1).cumsum(-1)
        number = self.numbers[:, input_ids.shape[1] - self.width, None] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, number, right=True).clamp_(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)


@dataclass(frozen=True)
class _Row:
    """A generated row without its end of turn, which `tokens` includes."""

    ids: list[int]
    finished: bool
    tokens: int


@torch.inference_mode()
def _generate(
    model: Any,
    encoder: Encoder,
    contexts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    options: dict[str, Any],
    **more: Any,
) -> list[list[_Row]]:
    """Generate `sampling.n` rows for each context, up to their end-of-turn tokens."""
    tokenizer = encoder.tokenizer
    width = max(map(len, contexts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else encoder.end_of_turn
    input_ids = torch.tensor([[pad] * (width - len(ids)) + list(ids) for ids in contexts], device=model.device)
    attention = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in contexts], device=model.device)
    ends = {encoder.end_of_turn, tokenizer.eos_token_id} - {None}
    chosen = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens, pad_token_id=pad, eos_token_id=sorted(ends), **options
    )
    generated = model.generate(
        input_ids=input_ids.repeat_interleave(sampling.n, 0),
        attention_mask=attention.repeat_interleave(sampling.n, 0),
        generation_config=chosen,
        **more,
    )
    rows = [_row(ids, ends) for ids in generated[:, width:].tolist()]
    return [rows[start : start + sampling.n] for start in range(0, len(rows), sampling.n)]


def _row(ids: list[int], ends: set[int]) -> _Row:
    stop = next((place for place, token in enumerate(ids) if token in ends), None)
    return _Row(ids, False, len(ids)) if stop is None else _Row(ids[:stop], True, stop + 1)


def _text(encoder: Encoder, ids: list[int]) -> str:
    return str(encoder.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
