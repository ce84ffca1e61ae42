"""A connection to an OpenAI-compatible server (vLLM, SGLang, llama.cpp): requests, and failures as sentences.

The `openai` client retries failed connections, timeouts, 408, 409, 429 and 5xx, with exponential backoff or after the
server's Retry-After.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from implicit_prm.config import SamplingConfig, ServerConfig
from implicit_prm.rollouts.server_replies import error_message
from implicit_prm.rollouts.time_limit import TimeLimit
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.secrets import hide_secrets, secret_values

T = TypeVar("T")

_KEPT = "Finished problems are kept; the same command resumes"


class ServerClient:
    """The client of a server, and what it knows of the model.

    Attributes:
        errors: what a request may raise: the errors of `openai`, and ValueError for a reply that is not JSON.
        model: what the server's list of models says about the model.

    Raises:
        ImplicitPRMError: the openai client is not installed, the key's environment variable is not set, the server
            cannot be reached, or it does not serve `policy.name`.
    """

    def __init__(self, policy: ServerConfig, say: Callable[[str], None] = print) -> None:
        try:
            import openai
        except ImportError:
            raise ImplicitPRMError(
                "policy=server needs the openai client: pip install 'implicit-prm[server]'"
            ) from None
        self._openai, self._policy, self._say = openai, policy, say
        key = "none"  # the client requires one
        if policy.api_key_env is not None:
            key = os.environ.get(policy.api_key_env, "")
            if not key:
                raise ImplicitPRMError(f"policy.api_key_env={policy.api_key_env}: this environment variable is not set")
        self._secrets = {*secret_values(policy.extra_body)} | ({key} if policy.api_key_env else set())
        self._time_limit = TimeLimit(policy.timeout_s)
        timeout = openai.Timeout(None, connect=5.0)  # of one attempt; the limit is for all of them
        self._client = openai.AsyncOpenAI(
            base_url=policy.base_url, api_key=key, timeout=timeout, max_retries=policy.retries
        )
        self._warned: set[str | None] = set()
        self._warning = threading.Lock()
        self.errors: tuple[type[Exception], ...] = (openai.OpenAIError, ValueError)
        self.model: dict[str, Any] = self._listed_model()

    def api(self, retries: int | None = None) -> Any:
        """The asynchronous client, for coroutines to `run`."""
        return self._client if retries is None else self._client.with_options(max_retries=retries)

    def run(self, request: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, within the time limit."""
        return self._time_limit.run(request)

    def options(self, sampling: SamplingConfig, seed: int | None, **more: Any) -> dict[str, Any]:
        """The fields of a request for one response, `more` after them."""
        return {
            "model": self._policy.name,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            **({} if seed is None else {"seed": seed}),
            **more,
        }

    def rejection(self, error: Exception) -> str | None:
        """Why the server rejects this one request, such as a prompt that is too long; None for other failures."""
        if isinstance(error, self._openai.APIStatusError) and error.status_code in (400, 413, 422):
            return hide_secrets(f"the server answers {error.status_code}: {error_message(error)}", self._secrets)
        return None

    def explained(self, error: Exception, what: str) -> ImplicitPRMError:
        """A failure that concerns more than one problem, with the way out and without credentials."""
        reason = hide_secrets(self._reason(error), self._secrets)
        return ImplicitPRMError(f"{self._policy.base_url}, {what}: {reason}. {_KEPT}")

    def warn_of_unknown(self, reasons: set[str | None]) -> None:
        """Print finish reasons that are not known, each once."""
        with self._warning:
            new = reasons - self._warned
            self._warned |= new
        for reason in new:
            named = "null" if reason is None else repr(reason)
            self._say(
                f"warning: {self._policy.base_url} answers with finish_reason={named}, which is not known; such "
                "responses count as finished unless they reach sampling.max_new_tokens"
            )

    def _listed_model(self) -> dict[str, Any]:
        """What the server's list of models says about the model, if it has such a list."""
        cards: list[Any] = []
        try:
            cards = [card for card in self._time_limit.run(self._list_models()) if getattr(card, "id", None)]
        except ImplicitPRMError as error:
            raise self.explained(error, "the list of models") from error
        except (ValueError, AttributeError, TypeError):
            pass  # not a list; the first request shows whether the server works
        except self._openai.OpenAIError as error:
            if getattr(error, "status_code", None) not in (404, 405, 501):
                raise self.explained(error, "the list of models") from error
        card = next((card for card in cards if card.id == self._policy.name), None)
        if cards and card is None:
            raise ImplicitPRMError(
                f"{self._policy.base_url} does not serve policy.name={self._policy.name}; it lists "
                + ", ".join(str(card.id) for card in cards[:10])
            )
        return {"listed_as": card and card.id, "root": getattr(card, "root", None)}

    async def _list_models(self) -> Any:
        return (await self._client.models.list()).data

    def _reason(self, error: Exception) -> str:
        if isinstance(error, ImplicitPRMError):
            return str(error)
        if isinstance(error, self._openai.APIStatusError):
            hints = {
                401: "set policy.api_key_env to the environment variable that holds the key",
                403: "set policy.api_key_env to the environment variable that holds the key",
                404: "check policy.name, and policy.base_url, which usually ends in /v1",
                400: "check policy.extra_body and sampling",
                422: "check policy.extra_body and sampling",
            }
            hint = hints.get(error.status_code, f"attempts: {self._policy.retries + 1}")
            return f"the server answers {error.status_code}: {error_message(error)} ({hint})"
        if isinstance(error, self._openai.APIConnectionError):
            cause = error.__cause__ or error
            return f"no reply ({cause}; attempts: {self._policy.retries + 1}); check that the server is running"
        return f"not a reply of an OpenAI-compatible server ({error})"


def request_seed(seed: int | None, *parts: object) -> int | None:
    """The seed of a request: 31 bits, which all servers accept; None if `seed` (sampling.seed) is None."""
    if seed is None:
        return None
    key = "\0".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1
