"""RewardModel: an explicit reward model that scores responses where it was trained to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from implicit_prm.baselines.checkpoint import BaselineSettings
from implicit_prm.baselines.layouts import Layout, read_positions, token_id
from implicit_prm.config import Dtype, PolicyConfig, TextConfig, from_mapping
from implicit_prm.data.tokenization import Encoder, context_length
from implicit_prm.models import forward, loading
from implicit_prm.models.checkpoint import BASELINE_FILE
from implicit_prm.models.implicit_prm import settings_file
from implicit_prm.models.shared_prompt import pieces
from implicit_prm.rewards.implicit_reward import sigmoid
from implicit_prm.types import ImplicitPRMError, Prompt, StepScores

# Token ids of a prompt, those of a response behind it, and the positions in the response that are read.
Row = tuple[Sequence[int], Sequence[int], Sequence[int]]


class RewardModel:
    """An outcome reward model, or a process reward model that was trained on step labels.

    Example:
        >>> prm = RewardModel.from_pretrained("outputs/value_head")
        >>> prm.score(problem, responses)[0].step_rewards

    Args:
        model: with a value head (transformers' token classification, one label), or a causal LM for `next_token`.
        tokenizer: its tokenizer.
        settings: kind, text handling and provenance.
        max_length: of prompt and response together, in tokens; by default the model's context, which no value exceeds.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: BaselineSettings,
        max_length: int | None = None,
    ) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.encoder = Encoder(tokenizer, settings.text)
        loading.check_embeds(model, self.encoder)
        self.layout = Layout(self.encoder, settings.kind, settings.tokens)
        self.reader = Reader(settings, tokenizer)
        self.limit_tokens = context_length(model.config, max_length)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        steps: str | None = None,
        prompt_template: str | None = None,
        max_length: int | None = None,
        revision: str | None = None,
        dtype: Dtype = "float32",
        device: str | torch.device | None = None,
        token: str | None = None,
        trust_remote_code: bool = False,
    ) -> RewardModel:
        """Open a checkpoint of `ipr-baseline`.

        Args:
            path_or_id: a folder that `ipr-baseline` wrote, or a hub repository of its content.
            steps: step rule, by default the checkpoint's. An outcome reward model has none to change.
            prompt_template: what to make of problems that are not prompts yet; by default the checkpoint's.
            max_length: refuse a response that is longer with its prompt, in tokens; by default the model's context.
            device: by default CUDA where there is one.

        Raises:
            ImplicitPRMError: no baseline.json, or a model that cannot be opened.
        """
        name = str(path_or_id)
        settings = saved_settings(name, revision, token)
        if settings is None:
            raise ImplicitPRMError(f"{name} has no {BASELINE_FILE}; it is no checkpoint of ipr-baseline")
        given = {"steps": steps, "prompt_template": prompt_template}
        changed = {key: value for key, value in given.items() if value is not None}
        settings.text = from_mapping(TextConfig, {**asdict(settings.text), **changed})
        opened = PolicyConfig(name, revision, dtype, trust_remote_code=trust_remote_code)
        model = loading.open_model(opened, token, head="causal_lm" if settings.kind == "next_token" else "value")
        model = model.to(device or forward.best_device())  # type: ignore[arg-type]
        return cls(model, loading.open_tokenizer(opened, token), settings, max_length)

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
        """Probability that each step is right; that the response is, if the model is an outcome reward model.

        Args:
            problem: the problem's text, or a chat as a list of {role, content}.
            responses: the texts to score; an empty one has no step, hence no score.
            finished: false for responses that were cut off, which then get no end-of-turn token.
            given_steps: the steps of each response, with step rule `given`.
            max_tokens: in one forward pass, padding included; by default what suits the device.

        Raises:
            ImplicitPRMError: a response longer than the model's context, or scores that are not finite.
        """
        finished = finished if finished is not None else [True] * len(responses)
        prompt_ids = self.encoder.prompt_ids(problem)
        laid_out = [
            self.layout.response(text, done, given_steps[place] if given_steps is not None else None)
            for place, (text, done) in enumerate(zip(responses, finished, strict=True))
        ]
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
                raise ImplicitPRMError(f"response {place}: scores that are not finite; use dtype=bfloat16 or float32")
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
        """Tokens of every response with the prompt, separators included; `given_steps` as for `score`."""
        prompt = len(self.encoder.prompt_ids(problem))
        given: Sequence[list[str] | None] = given_steps or [None] * len(responses)
        texts = zip(responses, finished, given, strict=True)
        if self.settings.tokens is None:
            return [prompt + self.encoder.length(text, done) for text, done, _ in texts]
        return [prompt + len(self.layout.response(*one).ids) for one in texts]

    def check_length(self, length: int, place: int) -> None:
        """Refuse a response over the limit. `length` is in tokens, prompt included."""
        if self.limit_tokens is not None and length > self.limit_tokens:
            raise ImplicitPRMError(
                f"response {place} is {length} tokens long with its prompt; the limit is {self.limit_tokens}. Leave it "
                "out, use a model with a longer context, or (ipr-eval) set too_long"
            )


class Reader:
    """Reads one logit at each position: of the value head, or of good against bad as the next token."""

    def __init__(self, settings: BaselineSettings, tokenizer: PreTrainedTokenizerBase) -> None:
        self.verdict: tuple[int, int] | None = None
        if settings.kind == "next_token":
            assert settings.tokens is not None  # what ipr-baseline writes
            self.verdict = token_id(tokenizer, settings.tokens.good), token_id(tokenizer, settings.tokens.bad)

    def logits(self, model: Any, rows: Sequence[Row], core: Any = None) -> Tensor:
        """[N] float32 logits at the read positions of all rows, in order; differentiable.

        Args:
            model: perhaps wrapped; `core`: the model inside its wrapper.
            rows: run in one batch, padded on the right. Attention goes by their lengths, not by what the ids are.
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


def saved_settings(name: str, revision: str | None = None, token: str | None = None) -> BaselineSettings | None:
    """What an explicit reward model was saved with; None for a model that is none.

    Raises:
        ImplicitPRMError: a path that is not there, or damaged settings.
    """
    found = settings_file(name, revision, token, BASELINE_FILE)
    return None if found is None else BaselineSettings.read(found.parent)
