"""Prompts and responses to token ids and steps: one tokenisation for sampling, training and scoring.

The prompt is rendered once, with the tokenizer's chat template, exactly as the sampler saw it; the response is
tokenised by itself behind it, as it was generated. Steps are found in the response's text and carried to tokens by
character offsets, never by rendering prefixes again.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version

import numpy as np
from transformers import PreTrainedTokenizerBase

from implicit_prm.config import TextConfig
from implicit_prm.data.chat_template import ChatTemplate, as_chat
from implicit_prm.rewards.step_splitting import split_steps, steps_of_tokens
from implicit_prm.types import Group, ImplicitPRMError, Prompt, StepSpan
from implicit_prm.utils.errors import error_context

# Increase it when the same texts give other token ids or steps than before.
ENCODING_VERSION = 1
# The characters [start, end) of a token.
Offset = tuple[int, int]


@dataclass(frozen=True)
class EncodedResponse:
    """The token ids and steps of one response, T tokens and S steps.

    Args:
        ids: [T] token ids; the last one is the end-of-turn token if the response ended by itself.
        offsets: [T] the characters [start, end) of each token.
        step_of_token: [T] the step that each token belongs to, non-decreasing.
        spans: [S] the characters of each step.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]
    step_of_token: list[int]
    spans: list[StepSpan]

    @cached_property
    def token_spans(self) -> list[StepSpan]:
        """[T] the characters of each token."""
        return [StepSpan(*pair) for pair in self.offsets]


def key_of(prompt_ids: Sequence[int], ids: Sequence[int]) -> bytes:
    """A 16-byte hash of a prompt and a response."""
    lengths = np.array([len(prompt_ids), len(ids)], dtype=np.int64)
    tokens = [np.asarray(some, dtype=np.int64) for some in (prompt_ids, ids)]
    return hashlib.sha256(b"".join(one.tobytes() for one in (lengths, *tokens))).digest()[:16]


@dataclass(frozen=True)
class TrainingResponse:
    """What training keeps of a response. Compact arrays, in memory or on disk: a data set may hold 10^8 tokens.

    Args:
        ids: [T] token ids.
        step_sizes: the number of tokens of each step, up to the last step that owns a token.
        key: `key_of` the prompt and the response.
        step_labels: [S] what the model should predict for each step, from 0 (wrong) to 1 (right), NaN for a step
            without a label; None if the loss reads none.
    """

    ids: Sequence[int]
    step_sizes: Sequence[int]
    key: bytes
    step_labels: Sequence[float] | None = None

    @property
    def step_of_token(self) -> array[int]:
        """[T] the step that each token belongs to."""
        steps = np.repeat(np.arange(len(self.step_sizes), dtype=np.int32), self.step_sizes)
        return array("i", steps.tobytes())


@dataclass(frozen=True)
class EncodedGroup:
    """A prompt's token ids with those of its K responses, as every trainer reads them.

    Args:
        name: the group's id, for messages.
        prompt_ids: token ids of the prompt.
        responses: [K] the responses.
        labels: [K] whether each final answer is right.
    """

    name: str
    prompt_ids: Sequence[int]
    responses: list[TrainingResponse]
    labels: list[bool]

    @classmethod
    def of(
        cls,
        group: Group,
        prompt_ids: Sequence[int],
        responses: Sequence[EncodedResponse],
        step_labels: Callable[[Group, int, EncodedResponse], Sequence[float]] | None = None,
    ) -> EncodedGroup:
        """Keep what training reads of a graded group.

        Args:
            group: the group.
            prompt_ids: token ids of its prompt.
            responses: [K] its responses, encoded.
            step_labels: returns the step labels of the response at a place of the group; by default there are none.

        Raises:
            ImplicitPRMError: an empty response, or step labels that do not match the steps; names the response.
        """
        kept = []
        for place, response in enumerate(responses):
            with error_context(f"{group.id}, response {place}"):
                if not response.ids:
                    raise ImplicitPRMError("the response is empty and was cut off; remove it")
                labels = None if step_labels is None else array("f", step_labels(group, place, response))
            ids, step_sizes = array("i", response.ids), array("i", np.bincount(response.step_of_token).tolist())
            kept.append(TrainingResponse(ids, step_sizes, key_of(prompt_ids, ids), labels))
        return cls(group.id, array("i", prompt_ids), kept, [bool(label) for label in group.correctness])

    @property
    def lengths(self) -> list[int]:
        """[K] tokens of the prompt and each response together."""
        return [len(self.prompt_ids) + len(response.ids) for response in self.responses]


def build_prompt(problem: str, text: TextConfig) -> Prompt:
    """The prompt for a problem: `prompt_template` applied, after the system message if there is one."""
    # replace, not format: problems are full of braces.
    content = text.prompt_template.removeprefix("raw:").replace("{problem}", problem)
    system = text.system_prompt
    if text.prompt_template.startswith("raw:") or (system is None and content == problem):
        return content
    # A chat, so that a prompt that is written to a file and read again is not put into the template twice.
    return ([] if system is None else [{"role": "system", "content": system}]) + [{"role": "user", "content": content}]


class Encoder:
    """Turns prompts and responses into token ids the way `text` says.

    Texts that the chat template has rendered already are recognised: such a prompt is used as it is, and a response
    that ends in the end-of-turn token gets no second one. A `<think>` that the generation prompt holds is not repeated
    at the start of the response.

    Args:
        tokenizer: a fast tokenizer (character offsets are needed) with a chat template. With
            `prompt_template="raw:{problem}"` no chat template is used.
        text: step rule, prompt template, system prompt and variables of the chat template.

    Raises:
        ImplicitPRMError: a slow tokenizer, no chat template, or no token that ends a response.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: TextConfig) -> None:
        self.tokenizer, self.text = tokenizer, text
        name = tokenizer.name_or_path or type(tokenizer).__name__
        if not tokenizer.is_fast:
            raise ImplicitPRMError(f"{name}: expected a fast tokenizer (character offsets); use_fast=True loads it")
        self.raw = text.prompt_template.startswith("raw:")
        if not self.raw and not tokenizer.chat_template:
            raise ImplicitPRMError(
                f"{name}: the tokenizer has no chat template. Use the instruct version of the model, set "
                "tokenizer.chat_template, or start prompt_template with 'raw:' to use plain text (raw:{problem}\\n)"
            )
        self.template = None if self.raw else ChatTemplate(tokenizer, text.template_kwargs)
        self.end_of_turn = self._end_of_turn(name)
        if self.template is not None:
            self.template.render(as_chat(self.build_prompt("problem")))  # refuses a system message here, if at all
        self.ends = {self.end_of_turn, tokenizer.eos_token_id} - {None}
        self.end_texts = [str(tokenizer.convert_ids_to_tokens(end)) for end in sorted(self.ends)]
        self._warned: set[str] = set()

    def _end_of_turn(self, name: str) -> int:
        """The token that ends a response: the chat template's own, or the EOS token if it has none."""
        found = None if self.template is None else self.template.end_of_turn
        if found is not None:
            return found
        if self.tokenizer.eos_token_id is None:
            raise ImplicitPRMError(f"{name}: no token ends a response; set tokenizer.eos_token")
        if self.template is not None:
            warnings.warn(
                f"{name}: the chat template writes no special token after a response; {self.tokenizer.eos_token} ends "
                "it",
                stacklevel=3,
            )
        return int(self.tokenizer.eos_token_id)

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=3)

    def build_prompt(self, problem: str) -> Prompt:
        """The prompt for a problem: `prompt_template` applied, after the system message if there is one."""
        return build_prompt(problem, self.text)

    def prompt_text(self, prompt: Prompt) -> str:
        """The prompt as the model reads it, up to where the response starts.

        Raises:
            ImplicitPRMError: a chat with a `raw:` template, a chat that the template refuses, or a text that is
                rendered in part or by another model's template.
        """
        if self.template is None:
            text = self.build_prompt(prompt) if isinstance(prompt, str) else prompt
            if not isinstance(text, str):
                raise ImplicitPRMError("a chat prompt cannot be used with a raw: prompt_template; give plain texts")
            return text
        rendered = self.template.completed(prompt) if isinstance(prompt, str) else None
        if rendered is not None:
            self._warn_once("prompts are rendered with the chat template already; they are used as they are")
            return rendered
        return self.template.render(as_chat(self.build_prompt(prompt) if isinstance(prompt, str) else prompt))

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of the prompt. A chat template writes its own special tokens; plain text gets the tokenizer's."""
        text = self.prompt_text(prompt)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not self.raw:
            return ids
        first = self.tokenizer("")["input_ids"]
        if first and ids[: len(first)] == first:
            self._warn_once(f"prompts start with {self.tokenizer.decode(first)} already; it is not added again")
            return ids
        return self.tokenizer(text)["input_ids"]

    def response(self, text: str, finished: bool = True, given: list[str] | None = None) -> EncodedResponse:
        """Encode one response; see `responses`."""
        return self.responses([text], [finished], None if given is None else [given])[0]

    def responses(
        self,
        texts: Sequence[str],
        finished: Sequence[bool] | None = None,
        given_steps: Sequence[list[str]] | None = None,
    ) -> list[EncodedResponse]:
        """Token ids and steps of responses.

        Args:
            texts: K responses.
            finished: [K] whether each response ended by itself; all of them by default. A response that was cut off
                gets no end-of-turn token, as it never produced one.
            given_steps: [K] the steps of each response, for the step rule `given`.

        Raises:
            ImplicitPRMError: with the step rule `given`, steps that are missing or not in the text.
        """
        encoded = []
        for place, (text, (ids, offsets)) in enumerate(zip(texts, self._tokenized(texts, finished), strict=True)):
            with error_context(f"response {place}"):
                spans = split_steps(text, self.text.steps, None if given_steps is None else given_steps[place])
            encoded.append(EncodedResponse(ids, offsets, steps_of_tokens(text, offsets, spans), spans))
        return encoded

    def _tokenized(self, texts: Sequence[str], finished: Sequence[bool] | None) -> list[tuple[list[int], list[Offset]]]:
        """Ids and offsets of responses, each with one end-of-turn token if it ended by itself."""
        if not texts:
            return []
        skipped = [self._opened(text) for text in texts]
        rest = [text[skip:] for text, skip in zip(texts, skipped, strict=True)]
        batch = self.tokenizer(rest, add_special_tokens=False, return_offsets_mapping=True)
        tokenized = []
        for place, (text, skip) in enumerate(zip(texts, skipped, strict=True)):
            ids, offsets = batch["input_ids"][place], batch["offset_mapping"][place]
            if skip:
                offsets = [(start + skip, end + skip) for start, end in offsets]
            tokenized.append(self._ended(ids, offsets, text) if finished is None or finished[place] else (ids, offsets))
        return tokenized

    def _opened(self, text: str) -> int:
        """How many characters at the start of a response the generation prompt holds already."""
        opening = "" if self.template is None else self.template.opening
        skip = len(opening.rstrip())
        if not skip or not text.startswith(opening[:skip]):
            return 0
        self._warn_once(f"responses start with {opening[:skip]!r}, as the generation prompt ends; it is not repeated")
        while skip < len(opening) and text[skip : skip + 1] == opening[skip]:
            skip += 1
        return skip

    def _ended(self, ids: list[int], offsets: list[Offset], text: str) -> tuple[list[int], list[Offset]]:
        """Tokens of a response that ended by itself: up to its own end-of-turn token, or with one appended."""
        end = len(ids)
        while end and (ids[end - 1] in self.ends or not text[slice(*offsets[end - 1])].strip()):
            end -= 1
        for place in range(end, len(ids)):
            if ids[place] in self.ends:
                self._warn_once(
                    f"responses end in {self.tokenizer.convert_ids_to_tokens(ids[place])} already; it is not added "
                    "again"
                )
                return ids[: place + 1], offsets[: place + 1]
        return [*ids, self.end_of_turn], [*offsets, (len(text), len(text))]

    def length(self, text: str, finished: bool = True) -> int:
        """Tokens of a response, its end-of-turn token included."""
        return len(self._tokenized([text], [finished])[0][0])

    def given_steps(self, group: Group) -> list[list[str]] | None:
        """[K] the steps that come with the group's responses, if the step rule is `given`."""
        return group.steps if self.text.steps == "given" else None

    def group_responses(self, group: Group) -> list[EncodedResponse]:
        """[K] the responses of a group, encoded; errors name the group and the response."""
        try:
            return self.responses(group.completions, group.finished, self.given_steps(group))
        except ImplicitPRMError as error:
            raise ImplicitPRMError(f"{group.id}, {error}") from None

    def group(self, group: Group, step_labels: bool = False) -> EncodedGroup:
        """Encode a graded group for training, with its step labels if `step_labels`.

        Raises:
            ImplicitPRMError: a response that is empty or cannot be split into steps, or step labels that do not match
                the steps; names the group and the response.
        """
        labels = given_step_labels if step_labels else None
        return EncodedGroup.of(group, self.prompt_ids(group.prompt), self.group_responses(group), labels)

    @property
    def identity(self) -> str:
        """Fingerprint of everything that turns prompts and responses into token ids and steps."""
        tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for state in ("truncation", "padding"):  # of the last call; neither is used here
            tokenizer.pop(state, None)
        parts = [tokenizer, str(self.tokenizer.chat_template), self.tokenizer.special_tokens_map, asdict(self.text)]
        text = json.dumps([*parts, version("tokenizers"), ENCODING_VERSION], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def template_hash(self) -> str:
        """Fingerprint of everything that turns a problem into a prompt; stored with a checkpoint."""
        parts = [str(self.tokenizer.chat_template), self.text.prompt_template, str(self.text.system_prompt)]
        if self.text.template_kwargs:  # checkpoints of 0.1 know none
            parts.append(json.dumps(self.text.template_kwargs, sort_keys=True))
        return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:16]


def given_step_labels(group: Group, place: int, encoded: EncodedResponse) -> list[float]:
    """[S] the step labels that come with a response; NaN for a step without one.

    A step that owns no token is NaN as well: its reward is always 0, so nothing can be learned from it.

    Raises:
        ImplicitPRMError: not one label for each step.
    """
    labels = group.step_labels[place] if group.step_labels is not None else None
    if labels is None:
        return [math.nan] * len(encoded.spans)
    labels.require_steps(len(encoded.spans))
    with_tokens = set(encoded.step_of_token)
    return [math.nan if label is None or step not in with_tokens else label for step, label in enumerate(labels)]


def context_length(model_config, limit_tokens: int | None) -> int | None:
    """The longest prompt + response in tokens: the smaller of the model's context and the user's limit.

    Raises:
        ImplicitPRMError: a limit below 1.
    """
    if limit_tokens is not None and limit_tokens < 1:
        raise ImplicitPRMError(f"max_length={limit_tokens}: expected at least 1")
    context = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    known = [length for length in (context, limit_tokens) if length is not None]
    return min(known) if known else None
