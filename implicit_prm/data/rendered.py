"""Texts that hold a prompt and its response, rendered with the chat template, split exactly or not at all."""

from __future__ import annotations

from dataclasses import dataclass

from implicit_prm.data.chat_template import ChatTemplate
from implicit_prm.data.tokenization import Encoder
from implicit_prm.types import ImplicitPRMError, Prompt

_APART = "send prompt and response apart instead"


@dataclass(frozen=True)
class RenderedResponse:
    """One response with its prompt, taken from a text that held both.

    Args:
        prompt: the prompt, rendered as far as it was in the text.
        response: the response, without the token that ends it.
        finished: whether that token was there; a response that was cut off has none.
    """

    prompt: Prompt
    response: str
    finished: bool


def split_rendered(encoder: Encoder, text: str, prompt: str | None = None) -> RenderedResponse:
    """Split a text at the start of its response.

    Args:
        encoder: with the chat template that the text was rendered with.
        text: prompt and response; BOS may be missing.
        prompt: the start of `text` up to the response, if it is known. Without it, the response is what follows the
            last generation prompt.

    Returns:
        Prompt and response.

    Raises:
        ImplicitPRMError: the text does not start with `prompt`; or, without it, there is no chat template, the text
            holds no generation prompt of the template, or the start of the response is not certain.
    """
    if prompt is None:
        prompt, text = _at_generation_prompt(encoder, text)
    elif text.startswith(prompt):
        text = text.removeprefix(prompt)
    else:
        raise ImplicitPRMError(
            f"the text {text[:60]!r} does not start with its prompt {prompt[:60]!r}, so the start of the response is "
            f"unknown; {_APART}"
        )
    return RenderedResponse(prompt, *_without_end(encoder, text))


def _at_generation_prompt(encoder: Encoder, text: str) -> tuple[str, str]:
    """Prompt and response of a text that the chat template rendered."""
    template = encoder.template
    if template is None:
        raise ImplicitPRMError(
            f"a raw: prompt_template leaves no mark between prompt and response, so they cannot be told apart; {_APART}"
        )
    start = template.generation_prompt
    head, found, response = text.rpartition(start)
    if not found or not start.strip():
        raise ImplicitPRMError(
            f"the text {text[:60]!r} does not hold the generation prompt {start!r} of this model's chat template, so "
            f"the start of the response is unknown. Render it with this template; or {_APART}"
        )
    if start in head and not template.is_marked(start):
        raise ImplicitPRMError(
            f"the text {text[:60]!r} holds the generation prompt {start!r} more than once, and there is no special "
            f"token in it, so the start of the response is uncertain; {_APART}"
        )
    prompt = template.completed(head + start) if template.starts_like_a_prompt(head) else None
    if prompt is None:
        raise ImplicitPRMError(
            f"the text {text[:60]!r} does not start as a prompt of this model's chat template; render it with this "
            f"template, or {_APART}"
        )
    return prompt, _without_written(template, response)


def _without_written(template: ChatTemplate, response: str) -> str:
    """A response without what the template itself writes in front of one after the generation prompt.

    Raises:
        ImplicitPRMError: it is more than white space, such as an empty `<think>`: the response may have had it, too.
    """
    written = template.assistant_turn[0].removeprefix(template.generation_prompt)
    if written == template.assistant_turn[0] or not response.startswith(written):
        return response
    if written.strip():
        raise ImplicitPRMError(
            f"the chat template writes {written!r} before a response, which the response may have had itself; {_APART}"
        )
    return response.removeprefix(written)


def _without_end(encoder: Encoder, response: str) -> tuple[str, bool]:
    """A response without what ends it, and whether anything did."""
    after = "" if encoder.template is None else encoder.template.assistant_turn[1]
    if after and response.endswith(after):
        return response.removesuffix(after), bool(after.strip())
    stripped = response.rstrip()
    for token in encoder.end_texts:
        if stripped.endswith(token):
            return stripped.removesuffix(token), True
    return response, False
