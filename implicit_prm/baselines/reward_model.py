"""RewardModel: an explicit reward model, which scores responses at the positions it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from implicit_prm.baselines.layouts import Layout, read_positions, token_id
from implicit_prm.config import Dtype, TextConfig, from_mapping
from implicit_prm.data.tokenization import Encoder, context_length
from implicit_prm.models import forward, loading
from implicit_prm.models.checkpoint import BASELINE_FILE, BaselineMetadata
from implicit_prm.models.shared_prompt import pieces
from implicit_prm.models.source import ModelSource
from implicit_prm.rewards.implicit_reward import sigmoid
from implicit_prm.types import ImplicitPRMError, Prompt, StepScores

# Token ids of a prompt, those of a response, and the positions in the response that are read.
Row = tuple[Sequence[int], Sequence[int], Sequence[int]]


class RewardModel:
    """An outcome reward model, or a process reward model that was trained on step labels.

    Examples:
        >>> prm = RewardModel.from_pretrained("outputs/value_head")
        >>> prm.score(problem, responses)[0].step_rewards

    Args:
        model: with a value head (transformers' token classification, one label), or a causal LM for `next_token`.
        tokenizer: its tokenizer.
        metadata: kind, text handling and provenance.
        max_length: limit on prompt and response together, in tokens; by default the model's context.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        metadata: BaselineMetadata,
        max_length: int | None = None,
    ) -> None:
        self.model, self.tokenizer, self.metadata = model, tokenizer, metadata
        self.encoder = Encoder(tokenizer, metadata.text)
        loading.check_embeds(model, self.encoder)
        self.layout = Layout(self.encoder, metadata.kind, metadata.tokens)
        self.reader = Reader(metadata, tokenizer)
        self.limit_tokens = context_length(model.config, max_length)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        steps: str | None = None,
        prompt_template: str | None = None,
        template_kwargs: dict[str, Any] | None = None,
        max_length: int | None = None,
        revision: str | None = None,
        dtype: Dtype = "float32",
        device: str | torch.device | None = None,
        token: str | None = None,
        trust_remote_code: bool = False,
    ) -> RewardModel:
        """Open a checkpoint of `ipr-baseline`.

        Args:
            path_or_id: a folder that `ipr-baseline` wrote, or the hub id of its content.
            steps: step rule; by default the checkpoint's. An outcome reward model has a single step whatever the rule.
            prompt_template: how a problem becomes a prompt, with {problem} in it; by default the checkpoint's.
            template_kwargs: variables of the chat template, such as enable_thinking; by default the checkpoint's.
            max_length: limit on prompt and response together, in tokens; a longer response is an error. By default the
                model's context.
            revision: branch, tag or commit on the hub.
            dtype: of the weights.
            device: by default CUDA if available, else the CPU.
            token: access token for the hub.
            trust_remote_code: run Python code that comes with the model.

        Returns:
            The model, ready to score.

        Raises:
            ImplicitPRMError: there is no baseline.json, or the model cannot be opened.
        """
        source = ModelSource.resolve(path_or_id, revision, token, trust_remote_code)
        return cls.from_source(
            source,
            steps=steps,
            prompt_template=prompt_template,
            template_kwargs=template_kwargs,
            max_length=max_length,
            dtype=dtype,
            device=device,
        )

    @classmethod
    def from_source(
        cls,
        source: ModelSource,
        *,
        steps: str | None = None,
        prompt_template: str | None = None,
        template_kwargs: dict[str, Any] | None = None,
        max_length: int | None = None,
        dtype: Dtype = "float32",
        device: str | torch.device | None = None,
    ) -> RewardModel:
        """Open a model that is already resolved. The other arguments are those of `from_pretrained`."""
        if not isinstance(source.metadata, BaselineMetadata):
            raise ImplicitPRMError(f"{source.name} has no {BASELINE_FILE}; it is not a checkpoint of ipr-baseline")
        changes = {"steps": steps, "prompt_template": prompt_template, "template_kwargs": template_kwargs}
        text = asdict(source.metadata.text) | {name: value for name, value in changes.items() if value is not None}
        metadata = replace(source.metadata, text=from_mapping(TextConfig, text))
        model = loading.open_model(source, dtype, head="causal_lm" if metadata.kind == "next_token" else "value")
        model = model.to(device or forward.best_device())  # type: ignore[arg-type]
        return cls(model, loading.open_tokenizer(source), metadata, max_length)

    @torch.no_grad()
    def score(
        self,
        problem: Prompt,
        responses: Sequence[str],
        *,
        finished: Sequence[bool] | None = None,
        given_steps: Sequence[list[str]] | None = None,
        max_tokens: int | None = None,
    ) -> list[StepScores]:
        """Score the steps of every response to one problem.

        Args:
            problem: the problem's text, or a chat as a list of {role, content}.
            responses: the texts to score; an empty one has no steps, hence no scores.
            finished: false for truncated responses, which get no end-of-turn token; by default all true.
            given_steps: the steps of each response, for the step rule `given`.
            max_tokens: in one forward pass, padding included; by default what suits the device.

        Returns:
            One `StepScores` per response, in the order given: the probability that each step is correct, or, from an
            outcome reward model, that the response is.

        Raises:
            ImplicitPRMError: a response over the model's context or `max_length`, or scores that are not finite.
        """
        prompt_ids = self.encoder.prompt_ids(problem)
        laid_out = self.layout.responses(responses, finished, given_steps)
        for place, one in enumerate(laid_out):
            self.check_length(len(prompt_ids) + len(one.ids), place)
        rows = [(prompt_ids, one.ids, read_positions(one.step_of_token, len(one.spans))) for one in laid_out]
        budget = max_tokens or forward.token_budget(self.model.device)
        scores: dict[int, list[float]] = {}
        for piece in pieces([len(prompt_ids) + len(one.ids) for one in laid_out], budget):
            logits = iter(self.reader.logits(self.model, [rows[place] for place in piece]).tolist())
            scores |= {place: [sigmoid(next(logits)) for _ in rows[place][2]] for place in piece}
        for place, values in scores.items():
            if any(value != value for value in values):
                raise ImplicitPRMError(f"response {place}: its scores are not finite; use dtype=bfloat16 or float32")
        return [
            StepScores(text, laid_out[place].spans, scores[place], kind="probability", index=place)
            for place, text in enumerate(responses)
        ]

    def lengths(
        self,
        problem: Prompt,
        responses: Sequence[str],
        finished: Sequence[bool],
        given_steps: Sequence[list[str]] | None = None,
    ) -> list[int]:
        """Length of every response with its prompt and separators, in tokens. The arguments are those of `score`."""
        prompt = len(self.encoder.prompt_ids(problem))
        given: Sequence[list[str] | None] = given_steps or [None] * len(responses)
        texts = zip(responses, finished, given, strict=True)
        if self.metadata.tokens is None:
            return [prompt + self.encoder.length(text, done) for text, done, _ in texts]
        return [prompt + len(self.layout.response(*one).ids) for one in texts]

    def check_length(self, length: int, place: int) -> None:
        """Check the length of a response with its prompt against the limit.

        Args:
            length: in tokens.
            place: index of the response, for the message.

        Raises:
            ImplicitPRMError: it is over the model's context or `max_length`.
        """
        forward.check_length(length, place, self.limit_tokens, context_length(self.model.config, None))


class Reader:
    """Reads one logit per position: the value head's, or good minus bad as the next token.

    Args:
        metadata: kind and tokens of the model.
        tokenizer: its tokenizer.
    """

    def __init__(self, metadata: BaselineMetadata, tokenizer: PreTrainedTokenizerBase) -> None:
        self.verdict: tuple[int, int] | None = None
        if metadata.kind == "next_token":
            assert metadata.tokens is not None  # ipr-baseline writes them
            self.verdict = token_id(tokenizer, metadata.tokens.good), token_id(tokenizer, metadata.tokens.bad)

    def logits(self, model: Any, rows: Sequence[Row], core: Any = None) -> Tensor:
        """Logits at the read positions, differentiable.

        Args:
            model: the model to call, which may be wrapped.
            rows: one right-padded batch. The attention mask follows their lengths, not the ids.
            core: the model inside the wrapper.

        Returns:
            [N] float32, row by row.
        """
        device = forward.base_model(core or model).device
        batch = forward.pad_rows([(prompt, ids) for prompt, ids, _ in rows], 0)
        inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")} | {"use_cache": False}
        row = torch.tensor([place for place, (_, _, read) in enumerate(rows) for _ in read], dtype=torch.long)
        column = torch.tensor([len(p) + position for p, _, read in rows for position in read], dtype=torch.long)
        wanted = row.to(device), column.to(device)
        if self.verdict is None:
            return model(**inputs).logits[..., 0][wanted].float()
        return forward.logit_differences(model, wanted, self.verdict, core, **inputs)[0]
