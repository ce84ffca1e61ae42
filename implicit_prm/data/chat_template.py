"""A tokenizer's chat template: how a chat becomes the text that the model reads, and where the response stands in it.

What the template writes around a turn is found by rendering a short chat, so any template works: nothing here knows the
names of models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from implicit_prm.types import ImplicitPRMError, Prompt

_PROBE, _ANSWER = "probe", "reply 42"
# Special tokens of other models' templates, as <|im_start|>, <｜User｜>, [INST], <start_of_turn> or <s>.
_SPECIAL = re.compile(r"<[|｜][^<>|｜\n]{1,40}[|｜]>|\[/?INST\]|\[gMASK\]|<(?:start|end)_of_turn>|</?s>|<bos>")
# Arguments that `apply_chat_template` itself reads.
_RESERVED = frozenset({"add_generation_prompt", "continue_final_message", "conversation", "messages", "tokenize"})


def as_chat(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt as a chat; a text is the user's message."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


class ChatTemplate:
    """Renders chats, and recognises texts that are rendered already.

    Args:
        tokenizer: a tokenizer with a chat template.
        kwargs: further variables of the template, as Qwen3's `enable_thinking`.

    Raises:
        ImplicitPRMError: a variable that the template does not use.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kwargs: Mapping[str, Any] | None = None) -> None:
        self.tokenizer, self.kwargs = tokenizer, dict(kwargs or {})
        for name in self.kwargs:
            if name in _RESERVED or not re.search(rf"\b{re.escape(name)}\b", str(tokenizer.chat_template)):
                raise ImplicitPRMError(
                    f"template_kwargs.{name}: the chat template of {tokenizer.name_or_path} has no such variable; "
                    "remove it"
                )

    def render(self, chat: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a chat, up to where the response starts.

        Raises:
            ImplicitPRMError: a template that refuses the chat, or a message that is rendered already.
        """
        for message in chat:
            if self.is_marked(message["content"]):
                raise ImplicitPRMError(
                    f"the {message['role']} message {message['content'][:60]!r} holds special tokens of the chat "
                    "template, as if it was rendered already; give the bare text, or the whole prompt as a text"
                )
        return self._apply(chat, add_generation_prompt)

    def _apply(self, chat: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            text = str(
                self.tokenizer.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=add_generation_prompt, **self.kwargs
                )
            )
            text.encode()  # no tokenizer takes half a surrogate pair
            return text
        except Exception as error:  # a template may raise any kind
            roles = ", ".join(message["role"] for message in chat)
            raise ImplicitPRMError(
                f"the tokenizer's chat template does not take a chat of {roles} ({error}); change "
                "tokenizer.chat_template or the prompt (a system message can go into prompt_template)"
            ) from error

    @cached_property
    def _around(self) -> tuple[str, str]:
        """The text before and after the user's message in a prompt."""
        before, _, after = self._apply(as_chat(_PROBE), True).rpartition(_PROBE)
        return before, after

    @property
    def generation_prompt(self) -> str:
        """The text between the user's message and the response."""
        return self._around[1]

    @cached_property
    def assistant_turn(self) -> tuple[str, str]:
        """The text between the user's message and the assistant's in a chat that ends with it, and the text after."""
        chat = [*as_chat(_PROBE), {"role": "assistant", "content": _ANSWER}]
        before, _, after = self._apply(chat, False).rpartition(_PROBE)[2].partition(_ANSWER)
        return before, after

    @cached_property
    def opening(self) -> str:
        """The part of the response that the generation prompt already holds: `<think>` and what follows it."""
        return "".join(re.findall(r"<think>.*\Z", self.generation_prompt, re.DOTALL))

    @cached_property
    def end_of_turn(self) -> int | None:
        """The special token that the template writes after a response; None if it writes none."""
        ids = self.tokenizer(self.assistant_turn[1], add_special_tokens=False)["input_ids"]
        if ids and ids[0] in self.tokenizer.added_tokens_decoder and ids[0] != self.tokenizer.unk_token_id:
            return int(ids[0])
        return None

    @cached_property
    def _markers(self) -> list[str]:
        """Special tokens that the template writes around messages; they do not occur in bare texts."""
        before, after = self._around
        written = before.removeprefix(self.tokenizer.bos_token or "") + after
        return [token for token in self._special if token in written]

    @cached_property
    def _special(self) -> list[str]:
        return [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]

    def is_marked(self, text: str) -> bool:
        """Whether a text holds a special token that the template writes around messages."""
        return any(token in text for token in self._markers)

    def starts_like_a_prompt(self, text: str) -> bool:
        """Whether a text starts with a special token, if prompts of this template do. BOS may be missing."""
        before = self._around[0]
        bos = self.tokenizer.bos_token or ""
        ours, theirs = (one.strip().removeprefix(bos).startswith(tuple(self._special)) for one in (before, text))
        return theirs or not ours

    def completed(self, text: str) -> str | None:
        """A prompt that is rendered already, exactly as this template writes it; None if the text is not rendered.

        A missing BOS token and white space that was stripped from the ends are restored.

        Raises:
            ImplicitPRMError: a text that is rendered in part, or with the template of another model.
        """
        before, after = self._around
        bos, end = self.tokenizer.bos_token or "", after.rstrip()
        body = text.strip().removeprefix(bos)
        starts_alike = bool(before.strip()) and body.startswith(before.removeprefix(bos).strip())
        marked = self.is_marked(text)
        if end and body.endswith(end) and (marked or starts_alike):
            start = bos if before.startswith(bos) else ""
            return start + body.removesuffix(end) + after
        if marked or (bos and text.startswith(bos)):
            raise ImplicitPRMError(
                f"the prompt {text[:60]!r} holds special tokens of the chat template, but does not end in its "
                f"generation prompt {after!r}. Give bare problems or chats; or render it with "
                "add_generation_prompt=True and the same template_kwargs; or set prompt_template='raw:{problem}' to "
                "use prompts as they are"
            )
        foreign = _SPECIAL.findall(text)
        if len(foreign) > 1 and text.lstrip().startswith(foreign[0]):
            raise ImplicitPRMError(
                f"the prompt {text[:60]!r} looks rendered with the chat template of another model ({foreign[0]} is not "
                "written by this one). Give bare problems or chats, or set prompt_template='raw:{problem}' to use "
                "prompts as they are"
            )
        return None
