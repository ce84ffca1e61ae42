"""Prompts and responses to token ids and steps: one tokenisation for sampling, training and scoring.

The prompt is rendered once, with the tokenizer's chat template, exactly as the sampler saw it; the response is
tokenised by itself behind it, as it was generated. Steps are found in the response's text and carried to tokens by
character offsets, never by rendering prefixes again.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from implicit_prm.config import TextConfig
from implicit_prm.rewards.step_splitting import split_steps, steps_of_tokens
from implicit_prm.types import Group, ImplicitPRMError, Prompt, StepSpan

_PROBE = "probe"


@dataclass(frozen=True)
class EncodedResponse:
    """A response behind its prompt. `step_of_token` is aligned with `ids`; the end of turn is in the last step."""

    ids: list[int]
    step_of_token: list[int]
    token_spans: list[StepSpan]
    spans: list[StepSpan]


@dataclass(frozen=True)
class ResponseIds:
    """What training keeps of a response: two machine integers a token, as there may be 10^8 of them.

    `step_labels` has an entry for each step, NaN where there is nothing to learn from; None if the loss reads none.
    """

    ids: array[int]
    step_of_token: array[int]
    step_labels: array[float] | None = None


@dataclass(frozen=True)
class EncodedGroup:
    """A prompt's token ids with those of its responses. `name` is for messages."""

    name: str
    prompt_ids: array[int]
    responses: list[ResponseIds]
    labels: list[bool]

    @property
    def lengths(self) -> list[int]:
        """Tokens of prompt and response together, one number per response."""
        return [len(self.prompt_ids) + len(response.ids) for response in self.responses]


def ask(problem: str, text: TextConfig) -> Prompt:
    """The prompt that asks `problem`: the template applied, with the system message in front if there is one."""
    # replace, not format: problems are full of braces.
    content = text.prompt_template.removeprefix("raw:").replace("{problem}", problem)
    system = text.system_prompt
    if text.prompt_template.startswith("raw:") or (system is None and content == problem):
        return content
    # A chat, so that a prompt that is written to a file and read again is not put into the template twice.
    return ([] if system is None else [{"role": "system", "content": system}]) + [{"role": "user", "content": content}]


class Encoder:
    """Turns text into ids the way `text` says.

    Args:
        tokenizer: a fast tokenizer (offsets are needed) with a chat template, unless the template is switched off by
            giving prompts that are rendered already, `prompt_template="raw:{problem}"`.
        text: step rule, prompt template, system prompt.

    Raises:
        ImplicitPRMError: a slow tokenizer, no chat template, or no end-of-turn token to be found.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: TextConfig) -> None:
        self.tokenizer, self.text = tokenizer, text
        name = tokenizer.name_or_path or type(tokenizer).__name__
        if not tokenizer.is_fast:
            raise ImplicitPRMError(
                f"{name}: a fast tokenizer is needed (character offsets); load it with use_fast=True"
            )
        self.raw = text.prompt_template.startswith("raw:")
        if not self.raw and not tokenizer.chat_template:
            raise ImplicitPRMError(
                f"{name}: the tokenizer has no chat template. Use the instruct version of the model, set "
                "tokenizer.chat_template, or start prompt_template with 'raw:' to use plain text (raw:{problem}\\n)"
            )
        self.end_of_turn = self._end_of_turn(name)

    def turn(self, problem: str) -> Prompt:
        """The prompt that asks `problem`: the template applied, with the system message in front if there is one."""
        return ask(problem, self.text)

    def prompt_text(self, prompt: Prompt) -> str:
        """The prompt as the model reads it, up to where the response starts."""
        turn = self.turn(prompt) if isinstance(prompt, str) else prompt
        if self.raw:
            if not isinstance(turn, str):
                raise ImplicitPRMError("a chat prompt cannot be used with a raw: prompt_template; give plain texts")
            return turn
        return self._render(messages(turn), add_generation_prompt=True)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of the prompt. A chat template writes its own special tokens; for plain text they are added."""
        return self.tokenizer(self.prompt_text(prompt), add_special_tokens=self.raw)["input_ids"]

    def response(self, text: str, finished: bool = True, given: list[str] | None = None) -> EncodedResponse:
        """Token ids and steps of a response. A response that was cut off gets no end-of-turn token it never produced.

        Raises:
            ImplicitPRMError: step rule `given` with steps that are not in the text.
        """
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = self._ended(encoding["input_ids"], encoding["offset_mapping"], text, finished)
        spans = split_steps(text, self.text.steps, given)
        steps = steps_of_tokens([start for start, _ in offsets], spans)
        return EncodedResponse(ids, steps, [StepSpan(*pair) for pair in offsets], spans)

    def length(self, text: str, finished: bool = True) -> int:
        """Tokens of a response, its end-of-turn token included."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) + finished

    def group(self, group: Group, step_labels: bool = False) -> EncodedGroup:
        """A graded group's token ids, and its step labels if they are asked for.

        Raises:
            ImplicitPRMError: a response that cannot be split, or whose step labels do not fit; names both.
        """
        batch = self.tokenizer(group.completions, add_special_tokens=False, return_offsets_mapping=True)
        encodings = zip(batch["input_ids"], batch["offset_mapping"], strict=True)
        responses = []
        for place, (text, (ids, offsets)) in enumerate(zip(group.completions, encodings, strict=True)):
            try:
                given = group.steps[place] if group.steps is not None and self.text.steps == "given" else None
                ids, offsets = self._ended(ids, offsets, text, group.finished[place])
                spans = split_steps(text, self.text.steps, given)
                steps = steps_of_tokens([start for start, _ in offsets], spans)
                if not ids:
                    raise ImplicitPRMError("the response is empty and was cut off; remove it")
                told = None
                if step_labels:
                    given_labels = None if group.step_labels is None else group.step_labels[place]
                    told = _step_labels(given_labels, len(spans), set(steps))
            except ImplicitPRMError as error:
                raise ImplicitPRMError(f"{group.id}, response {place}: {error}") from None
            responses.append(ResponseIds(array("i", ids), array("i", steps), told))
        labels = [bool(label) for label in group.correctness]
        return EncodedGroup(group.id, array("i", self.prompt_ids(group.prompt)), responses, labels)

    def _ended(
        self, ids: list[int], offsets: list[tuple[int, int]], text: str, finished: bool
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and character offsets with the end of turn behind them, where the response ended by itself."""
        return ([*ids, self.end_of_turn], [*offsets, (len(text), len(text))]) if finished else (ids, offsets)

    @property
    def template_hash(self) -> str:
        """Fingerprint of everything that turns a problem into a prompt; stored with a checkpoint."""
        parts = [str(self.tokenizer.chat_template), self.text.prompt_template, str(self.text.system_prompt)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ImplicitPRMError(
                f"the tokenizer's chat template does not take a chat of {roles} ({error}); change "
                "tokenizer.chat_template or the prompt (a system message can go into prompt_template)"
            ) from error

    def _end_of_turn(self, name: str) -> int:
        """The token that ends an assistant's turn: what the template writes behind it if special, else the EOS."""
        if not self.raw:
            turn = [*messages(self.turn(_PROBE)), {"role": "assistant", "content": _PROBE}]
            behind = self._render(turn, add_generation_prompt=False).rpartition(_PROBE)[2]
            ids = self.tokenizer(behind, add_special_tokens=False)["input_ids"]
            if ids and ids[0] in self.tokenizer.added_tokens_decoder and ids[0] != self.tokenizer.unk_token_id:
                return ids[0]
        if self.tokenizer.eos_token_id is None:
            raise ImplicitPRMError(f"{name}: no token ends a response; set tokenizer.eos_token")
        return self.tokenizer.eos_token_id


def _step_labels(labels: Sequence[Any] | None, steps: int, with_tokens: set[int]) -> array[float]:
    """A response's step labels as numbers, NaN for null and for steps that own no token: they have no reward to learn.

    Raises:
        ImplicitPRMError: not one label for each step, or one that is no number from 0 to 1.
    """
    if labels is None:
        labels = [None] * steps
    if not isinstance(labels, Sequence) or len(labels) != steps:
        found = len(labels) if isinstance(labels, Sequence) else repr(labels)
        raise ImplicitPRMError(
            f"{found} step labels but {steps} steps; set data.steps to the rule that the labels were made for"
        )
    for label in labels:
        if label is not None and not (isinstance(label, bool | int | float) and 0 <= label <= 1):
            raise ImplicitPRMError(
                f"the step label {label!r} must be true, false, a number from 0 to 1, or null where nobody said"
            )
    known = [label is not None and step in with_tokens for step, label in enumerate(labels)]
    return array("f", [label if know else math.nan for label, know in zip(labels, known, strict=True)])


def messages(turn: Prompt) -> list[dict[str, str]]:
    """A prompt as a chat: a plain text is the user's turn."""
    return [{"role": "user", "content": turn}] if isinstance(turn, str) else turn


def context_length(model_config, limit_tokens: int | None) -> int | None:
    """The longest prompt + response in tokens: the smaller of the model's context and the user's limit."""
    context = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    known = [length for length in (context, limit_tokens) if length is not None]
    return min(known) if known else None
