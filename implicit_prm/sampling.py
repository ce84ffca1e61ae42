"""Sampling with transformers' own generation, in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, set_seed

from implicit_prm import backbone
from implicit_prm.config import PolicyConfig, SamplingConfig, TextConfig
from implicit_prm.data.tokens import Encoder, context_length
from implicit_prm.processes import Processes
from implicit_prm.records import Problem, Samples


class TransformersSampler:
    """Samples in fixed batches of consecutive problems, each with its own seed, whoever of the processes takes it.

    Raises:
        ImplicitPRMError: the model cannot be opened, or has no chat template where one is needed.
    """

    def __init__(self, policy: PolicyConfig, sampling: SamplingConfig, text: TextConfig) -> None:
        self._policy, self._sampling = policy, sampling
        self._encoder = Encoder(backbone.open_tokenizer(policy), text)
        template = None if self._encoder.raw else str(self._encoder.tokenizer.chat_template)
        self.identity: dict[str, Any] = {
            "model": backbone.weights_of(policy),
            "chat_template_sha256": template and hashlib.sha256(template.encode()).hexdigest()[:16],
        }

    def sample(self, problems: Sequence[Problem], done: Container[str], processes: Processes) -> Iterator[Samples]:
        """Responses to this process' share of the problems that are not `done`, in the order of the problems."""
        model: Any = backbone.open_model(self._policy).to(backbone.best_device())  # type: ignore[arg-type]
        context = context_length(model.config, None)
        size = self._sampling.problems_per_batch
        # Where a batch starts is its seed, so batches are cut before any is left out.
        batches = [(start, problems[start : start + size]) for start in range(0, len(problems), size)]
        open_ones = [(start, batch) for start, batch in batches if any(problem.id not in done for problem in batch)]
        for start, batch in open_ones[processes.rank :: processes.size]:
            refused = {problem.id: self._too_long(problem, context) for problem in batch}
            fitting = [problem for problem in batch if refused[problem.id] is None]
            sampled = iter(
                sample(model, self._encoder, fitting, self._sampling, self._sampling.seed + start) if fitting else []
            )
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
            f"its prompt of {prompt} tokens and sampling.max_new_tokens={self._sampling.max_new_tokens} are more than "
            f"the {context} tokens of the model's context"
        )


@torch.inference_mode()
def sample(
    model: Any, encoder: Encoder, problems: Sequence[Problem], sampling: SamplingConfig, seed: int
) -> list[Samples]:
    """`sampling.n` responses to each problem, in one batch.

    Nothing but temperature and top-p shapes the distribution: the model's own generation defaults (top-k, repetition
    penalty) would make the responses ones that the reference does not assign its log-probabilities to.
    """
    tokenizer = encoder.tokenizer
    prompts = [encoder.prompt_ids(problem.text) for problem in problems]
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else encoder.end_of_turn
    input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=model.device)
    attention = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=model.device)
    ends = {encoder.end_of_turn, tokenizer.eos_token_id} - {None}
    set_seed(seed)
    generated = model.generate(
        input_ids=input_ids,
        attention_mask=attention,
        generation_config=GenerationConfig(
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            max_new_tokens=sampling.max_new_tokens,
            num_return_sequences=sampling.n,
            pad_token_id=pad,
            eos_token_id=sorted(ends),
        ),
    )
    rows = generated[:, width:].tolist()
    return [
        _samples(problem, rows[place * sampling.n : (place + 1) * sampling.n], ends, tokenizer)
        for place, problem in enumerate(problems)
    ]


def _samples(problem: Problem, rows: list[list[int]], ends: set[int], tokenizer: Any) -> Samples:
    """Rows of generated ids up to their end-of-turn tokens, as texts; unfinished where there is none."""
    stops = [next((place for place, token in enumerate(ids) if token in ends), None) for ids in rows]
    texts = [
        tokenizer.decode(ids[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for ids, stop in zip(rows, stops, strict=True)
    ]
    tokens = sum(len(ids) if stop is None else stop + 1 for ids, stop in zip(rows, stops, strict=True))
    return Samples(problem, texts, [stop is not None for stop in stops], tokens)
