"""Sampling from an OpenAI-compatible server (vLLM, SGLang, llama.cpp) with concurrent requests.

The `openai` client retries failed connections, timeouts, 408, 409, 429 and 5xx, with exponential backoff or after the
server's Retry-After. This module handles the rest: servers without `n`, replies without a usable response, and whether
a failure concerns one problem or all of them.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

from implicit_prm.config import SamplingConfig, ServerConfig, TextConfig
from implicit_prm.data.chat_template import as_chat
from implicit_prm.data.tokenization import build_prompt
from implicit_prm.rollouts.server_replies import Responses, choices_of, error_message
from implicit_prm.rollouts.time_limit import TimeLimit
from implicit_prm.types import ImplicitPRMError, Problem, Prompt, Samples
from implicit_prm.utils.distributed import Processes
from implicit_prm.utils.secrets import hide_secrets, secret_values

_KEPT = "Finished problems are kept; the same command resumes"
_PROBE = "What is 1 + 1?"


class ServerSampler:
    """Requests responses to up to `policy.concurrency` problems at a time.

    Raises:
        ImplicitPRMError: the openai client is not installed, the key's environment variable is not set, the server
            cannot be reached, or it does not serve `policy.name`.
    """

    def __init__(
        self, policy: ServerConfig, sampling: SamplingConfig, text: TextConfig, say: Callable[[str], None] = print
    ) -> None:
        try:
            import openai
        except ImportError:
            raise ImplicitPRMError(
                "policy=server needs the openai client: pip install 'implicit-prm[server]'"
            ) from None
        self._openai, self._policy, self._sampling, self._text, self._say = openai, policy, sampling, text, say
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
        self._raw = text.prompt_template.startswith("raw:")
        self._extra_body = policy.extra_body
        if text.template_kwargs:  # as vLLM and SGLang name them
            self._extra_body = {**(policy.extra_body or {}), "chat_template_kwargs": text.template_kwargs}
        self._warned: set[str | None] = set()
        self._warning = threading.Lock()
        self.identity: dict[str, Any] = {
            "model": self._listed_model(),
            "chat_template_sha256": None if self._raw else "applied by the server",
        }

    def sample(self, problems: Sequence[Problem], done: Container[str], processes: Processes) -> Iterator[Samples]:
        """Responses to the problems whose id is not in `done`, as they arrive.

        A problem that the server rejects (its prompt is too long) is yielded as refused. After any other failure, no
        new problem is started, those in flight are yielded, and then the error is raised.
        """
        if processes.size > 1:
            raise ImplicitPRMError("policy=server runs in one process; launch one and raise policy.concurrency")
        waiting: queue.SimpleQueue[Problem] = queue.SimpleQueue()
        for problem in problems:
            if problem.id not in done:
                waiting.put(problem)
        supports_n = self._supports_n()
        workers = min(self._policy.concurrency, waiting.qsize())
        outcomes: queue.Queue[Samples | Exception | None] = queue.Queue(2 * workers)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    outcomes.put(self._responses(waiting.get_nowait(), supports_n))
                except queue.Empty:
                    break
                except Exception as error:
                    stop.set()
                    outcomes.put(error)
            outcomes.put(None)

        # Daemon threads: an interrupted program must not wait for a request or for the pause before a retry.
        for _ in range(workers):
            threading.Thread(target=work, daemon=True).start()
        failure: Exception | None = None
        try:
            while workers:
                outcome = outcomes.get()
                if outcome is None:
                    workers -= 1
                elif isinstance(outcome, Samples):
                    yield outcome
                else:
                    failure = failure or outcome
        finally:
            stop.set()
            while not outcomes.empty():  # unblock workers that wait to put an outcome
                outcomes.get_nowait()
        if failure is not None:
            raise failure

    def _responses(self, problem: Problem, supports_n: bool) -> Samples:
        """All responses to one problem, in one request or as many as needed."""
        prompt, wanted = build_prompt(problem.text, self._text), self._sampling.n
        responses = Responses()
        try:
            while (missing := wanted - responses.received) > 0:
                seed = self._seed(problem, responses.received)
                reply = self._request(prompt, missing if supports_n else 1, seed)
                responses.add(reply, missing, self._sampling.max_new_tokens)
        except self._openai.APIStatusError as error:
            if error.status_code in (400, 413, 422):
                reason = f"the server answers {error.status_code}: {error_message(error)}"
                return Samples(problem, [], [], refused=hide_secrets(reason, self._secrets))
            raise self._explained(error, problem.id) from error
        except (self._openai.OpenAIError, ValueError) as error:
            raise self._explained(error, problem.id) from error
        self._warn_of_unknown(responses.unknown_reasons)
        return Samples(problem, responses.texts, responses.finished, responses.tokens, left_out=responses.unusable)

    def _request(self, prompt: Prompt, n: int, seed: int | None, **changes: Any) -> Any:
        sampling = self._sampling
        options: dict[str, Any] = {
            "model": self._policy.name,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "extra_body": self._extra_body,
            **({} if seed is None else {"seed": seed}),
            **({"n": n} if n > 1 else {}),
            **changes,
        }
        client: Any = self._client.with_options(max_retries=options.pop("retries", self._policy.retries))
        if self._raw:
            return self._time_limit.run(client.completions.create(prompt=prompt, **options))
        return self._time_limit.run(client.chat.completions.create(messages=as_chat(prompt), **options))

    def _supports_n(self) -> bool:
        """Does one request return several responses? Found out with one token; llama.cpp answers 500.

        This is also the first check that the server accepts such requests at all.
        """
        prompt, seed = build_prompt(_PROBE, self._text), None if self._sampling.seed is None else 0
        if self._sampling.n > 1:
            try:
                reply = self._request(prompt, 2, seed, max_tokens=1, retries=min(2, self._policy.retries))
                if len(choices_of(reply)) > 1:
                    return True
            except (self._openai.OpenAIError, ValueError):
                pass  # the plain request below shows whether the server works
        try:
            choices_of(self._request(prompt, 1, seed, max_tokens=1))
        except (self._openai.OpenAIError, ValueError) as error:
            raise self._explained(error, "a short first request") from error
        if self._sampling.n > 1:
            self._say(f"{self._policy.base_url} does not support n: {self._sampling.n} requests per problem")
        return False

    def _listed_model(self) -> dict[str, Any]:
        """What the server's list of models says about the model, if it has such a list."""
        cards: list[Any] = []
        try:
            cards = [card for card in self._time_limit.run(self._list_models()) if getattr(card, "id", None)]
        except ImplicitPRMError as error:
            raise self._explained(error, "the list of models") from error
        except (ValueError, AttributeError, TypeError):
            pass  # not a list; the first request shows whether the server works
        except self._openai.OpenAIError as error:
            if getattr(error, "status_code", None) not in (404, 405, 501):
                raise self._explained(error, "the list of models") from error
        card = next((card for card in cards if card.id == self._policy.name), None)
        if cards and card is None:
            raise ImplicitPRMError(
                f"{self._policy.base_url} does not serve policy.name={self._policy.name}; it lists "
                + ", ".join(str(card.id) for card in cards[:10])
            )
        return {"listed_as": card and card.id, "root": getattr(card, "root", None)}

    async def _list_models(self) -> Any:
        return (await self._client.models.list()).data

    def _seed(self, problem: Problem, number: int) -> int | None:
        """The seed of a request: 31 bits, which all servers accept; None if sampling.seed is null."""
        if self._sampling.seed is None:
            return None
        key = f"{self._sampling.seed}\0{problem.id}\0{number}"
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1

    def _warn_of_unknown(self, reasons: set[str | None]) -> None:
        with self._warning:
            new = reasons - self._warned
            self._warned |= new
        for reason in new:
            named = "null" if reason is None else repr(reason)
            self._say(
                f"warning: {self._policy.base_url} answers with finish_reason={named}, which is not known; such "
                "responses count as finished unless they reach sampling.max_new_tokens"
            )

    def _explained(self, error: Exception, what: str) -> ImplicitPRMError:
        """A failure that concerns more than one problem, with the way out and without credentials."""
        reason = hide_secrets(self._reason(error), self._secrets)
        return ImplicitPRMError(f"{self._policy.base_url}, {what}: {reason}. {_KEPT}")

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
