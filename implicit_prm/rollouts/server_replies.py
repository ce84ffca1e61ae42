"""Reading the replies of OpenAI-compatible servers, which differ in finish reasons and in what a reply may lack."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from implicit_prm.types import ImplicitPRMError

# Names of the same thing by OpenAI, vLLM, SGLang, llama.cpp, TGI, Ollama, Together, Mistral, Anthropic and Cohere.
FINISHED = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete", "completed"}
CUT_OFF = {"length", "max_tokens", "max_length", "model_length", "limit", "incomplete"}
# The response is not what the model would have written.
UNUSABLE = {"content_filter", "refusal", "abort", "error", "cancelled"}


@dataclass
class Responses:
    """The usable responses of one or several replies.

    Args:
        texts: of the responses.
        finished: did the response end by itself?
        tokens: generated for all responses, if the server reports them.
        unusable: number of responses without a usable text, by reason.
        unknown_reasons: finish reasons that are in none of the sets above; None stands for a missing one.
    """

    texts: list[str] = field(default_factory=list)
    finished: list[bool] = field(default_factory=list)
    tokens: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    unknown_reasons: set[str | None] = field(default_factory=set)

    @property
    def received(self) -> int:
        """All responses, usable or not."""
        return len(self.texts) + sum(self.unusable.values())

    def add(self, reply: Any, wanted: int, max_tokens: int) -> None:
        """Read a reply.

        Args:
            reply: a chat completion or completion of the `openai` client.
            wanted: number of responses to take from it at most.
            max_tokens: the limit that the request set.

        Raises:
            ImplicitPRMError: the reply holds no responses, or a response without its reasoning.
        """
        choices = choices_of(reply)[:wanted]
        counted = getattr(getattr(reply, "usage", None), "completion_tokens", None)
        tokens = counted if isinstance(counted, int) else 0
        self.tokens += tokens
        # The tokens of a lone response say whether it reached the limit, whatever its finish reason.
        at_limit = len(choices) == 1 and tokens >= max_tokens
        for choice in choices:
            reason = getattr(choice, "finish_reason", None)
            reason = reason if reason is None else str(reason)
            text = _text(choice)
            kind = str(reason).lower()
            if kind in UNUSABLE:
                self.unusable[f"finish_reason={reason}"] += 1
            elif text is None:
                self.unusable["content=null"] += 1
            else:
                if kind not in FINISHED | CUT_OFF:
                    self.unknown_reasons.add(reason)
                self.texts.append(_without_lone_surrogates(text))
                self.finished.append(kind not in CUT_OFF and (kind in FINISHED or not at_limit))


def choices_of(reply: Any) -> list[Any]:
    """The choices of a reply; raises ImplicitPRMError if there are none."""
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise ImplicitPRMError(f"a reply without choices: {str(reply)[:200]!r}")
    return choices


def error_message(error: Any) -> str:
    """The server's own message in an `openai.APIStatusError`."""
    body = error.body
    text = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(text or error.message).split())[:500]


def _text(choice: Any) -> str | None:
    message = getattr(choice, "message", None)
    text = getattr(choice, "text", None) if message is None else getattr(message, "content", None)
    if getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None):
        raise ImplicitPRMError(
            "the server returns the reasoning apart from the response, so the response is not the whole text that the "
            "model wrote; start the server without a reasoning parser"
        )
    if not isinstance(text, str) and (text is not None or message is None):
        raise ImplicitPRMError(f"a choice without text: {str(choice)[:200]!r}")
    return text


def _without_lone_surrogates(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD; JSON can hold them, UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
