"""Sampling from a server that speaks OpenAI's protocol (vLLM, SGLang, llama.cpp), many requests at a time.

The `openai` client repeats what failed for a while: no connection, a timeout, 408, 409, 429 and 5xx, with doubling and
jittered pauses or the server's own Retry-After. Here remains what the client does not know: servers that take no `n`,
answers that hold no response, and which failures concern one problem and which all of them.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

from implicit_prm.config import SamplingConfig, ServerConfig, TextConfig
from implicit_prm.data.tokenization import as_chat, build_prompt
from implicit_prm.types import ImplicitPRMError, Problem, Prompt, Samples
from implicit_prm.utils.distributed import Processes

_KEPT = "What was done is kept, and the same command goes on from there"
_PROBE = "What is 1 + 1?"


class ServerSampler:
    """Asks a server for responses, to `policy.concurrency` problems at a time.

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
        key = "none"  # the client insists on one
        if policy.api_key_env is not None:
            key = os.environ.get(policy.api_key_env, "")
            if not key:
                raise ImplicitPRMError(f"policy.api_key_env={policy.api_key_env}: this environment variable is not set")
        self._client = openai.OpenAI(
            base_url=policy.base_url, api_key=key, timeout=policy.timeout_s, max_retries=policy.retries
        )
        self._raw = text.prompt_template.startswith("raw:")
        self.identity: dict[str, Any] = {
            "model": self._listed(),
            "chat_template_sha256": None if self._raw else "applied by the server",
        }

    def sample(self, problems: Sequence[Problem], done: Container[str], processes: Processes) -> Iterator[Samples]:
        """Responses to the problems that are not `done`, as they come.

        A problem that the server will not take (its prompt is too long) is yielded as refused. When anything else
        fails, no new problem is begun, those on their way are yielded, and then the error is raised.
        """
        if processes.size > 1:
            raise ImplicitPRMError("policy=server is for one process; launch one and raise policy.concurrency")
        waiting: queue.SimpleQueue[Problem] = queue.SimpleQueue()
        for problem in problems:
            if problem.id not in done:
                waiting.put(problem)
        many = self._takes_n()
        workers = min(self._policy.concurrency, waiting.qsize())
        outcomes: queue.Queue[Samples | Exception | None] = queue.Queue(2 * workers)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    outcomes.put(self._responses(waiting.get_nowait(), many))
                except queue.Empty:
                    break
                except Exception as error:
                    stop.set()
                    outcomes.put(error)
            outcomes.put(None)

        # Daemons: an interrupted program must not wait for a request, or for the pauses between its repetitions.
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
            while not outcomes.empty():  # nobody reads any more: let the workers put their last word and end
                outcomes.get_nowait()
        if failure is not None:
            raise failure

    def _responses(self, problem: Problem, many: bool) -> Samples:
        """All responses to one problem: in one request, or in as many as it takes."""
        prompt, wanted = build_prompt(problem.text, self._text), self._sampling.n
        texts: list[str] = []
        finished: list[bool] = []
        tokens = 0
        try:
            while len(texts) < wanted:
                answer = self._request(prompt, wanted - len(texts) if many else 1, self._seed(problem, len(texts)))
                choices = _choices(answer)[: wanted - len(texts)]
                texts += [_text(choice) for choice in choices]
                finished += [getattr(choice, "finish_reason", None) == "stop" for choice in choices]
                counted = getattr(getattr(answer, "usage", None), "completion_tokens", None)
                tokens += counted if isinstance(counted, int) else 0
        except self._openai.APIStatusError as error:
            if error.status_code in (400, 413, 422):
                return Samples(problem, [], [], refused=f"the server answers {error.status_code}: {_said(error)}")
            raise self._explained(error, problem.id) from error
        except (self._openai.OpenAIError, ValueError) as error:
            raise self._explained(error, problem.id) from error
        return Samples(problem, texts, finished, tokens)

    def _request(self, prompt: Prompt, n: int, seed: int, **changes: Any) -> Any:
        sampling = self._sampling
        options: dict[str, Any] = {
            "model": self._policy.name,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": seed,
            "extra_body": self._policy.extra_body,
            **({"n": n} if n > 1 else {}),
            **changes,
        }
        client: Any = self._client.with_options(max_retries=options.pop("retries", self._policy.retries))
        if self._raw:
            return client.completions.create(prompt=prompt, **options)
        return client.chat.completions.create(messages=as_chat(prompt), **options)

    def _takes_n(self) -> bool:
        """Whether one request may ask for several responses, found out with one token; llama.cpp refuses, with 500.

        It is also the first look at whether the server takes such requests at all.
        """
        prompt = build_prompt(_PROBE, self._text)
        if self._sampling.n > 1:
            try:
                answer = self._request(prompt, 2, 0, max_tokens=1, retries=min(2, self._policy.retries))
                if len(_choices(answer)) > 1:
                    return True
            except (self._openai.OpenAIError, ValueError):
                pass  # whatever it is, a plain request will tell
        try:
            _choices(self._request(prompt, 1, 0, max_tokens=1))
        except (self._openai.OpenAIError, ValueError) as error:
            raise self._explained(error, "a first, short request") from error
        if self._sampling.n > 1:
            self._say(f"{self._policy.base_url} gives one response to a request: each problem takes {self._sampling.n}")
        return False

    def _listed(self) -> dict[str, Any]:
        """What the server says of the model, where it lists its models."""
        cards: list[Any] = []
        try:
            cards = [card for card in self._client.models.list() if getattr(card, "id", None)]
        except (ValueError, AttributeError, TypeError):
            pass  # not a list; the first request will tell
        except self._openai.OpenAIError as error:
            if getattr(error, "status_code", None) not in (404, 405, 501):
                raise self._explained(error, "the list of its models") from error
        card = next((card for card in cards if card.id == self._policy.name), None)
        if cards and card is None:
            raise ImplicitPRMError(
                f"{self._policy.base_url} does not serve policy.name={self._policy.name}; it lists "
                + ", ".join(str(card.id) for card in cards[:10])
            )
        return {"listed_as": card and card.id, "root": getattr(card, "root", None)}

    def _seed(self, problem: Problem, number: int) -> int:
        key = f"{self._sampling.seed}\0{problem.id}\0{number}"
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1  # 31 bits: all servers take them

    def _explained(self, error: Exception, what: str) -> ImplicitPRMError:
        """A failure that concerns more than one problem, as a sentence with the way out."""
        where = f"{self._policy.base_url}, {what}"
        if isinstance(error, ImplicitPRMError):
            return ImplicitPRMError(f"{where}: {error}. {_KEPT}")
        if isinstance(error, self._openai.APIStatusError):
            ways = {
                401: "name the environment variable that holds the key in policy.api_key_env",
                403: "name the environment variable that holds the key in policy.api_key_env",
                404: "see policy.name, and policy.base_url, which mostly ends in /v1",
                400: "see policy.extra_body and sampling",
                422: "see policy.extra_body and sampling",
            }
            way = ways.get(error.status_code, f"attempts: {self._policy.retries + 1}")
            return ImplicitPRMError(f"{where}: the server answers {error.status_code}: {_said(error)} ({way}). {_KEPT}")
        if isinstance(error, self._openai.APIConnectionError):
            return ImplicitPRMError(
                f"{where}: no answer ({error.__cause__ or error}; attempts: {self._policy.retries + 1}); see that the "
                f"server runs. {_KEPT}"
            )
        return ImplicitPRMError(f"{where}: the answer is not one of OpenAI's protocol ({error}). {_KEPT}")


def _choices(answer: Any) -> list[Any]:
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise ImplicitPRMError(f"an answer without choices: {str(answer)[:200]!r}")
    return choices


def _text(choice: Any) -> str:
    message = getattr(choice, "message", None)
    text = getattr(choice, "text", None) if message is None else getattr(message, "content", None)
    if getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None):
        raise ImplicitPRMError(
            "the reasoning comes apart from the response, which is then not what the model wrote; start the server "
            "without a reasoning parser"
        )
    if not isinstance(text, str):
        raise ImplicitPRMError(f"a choice without text: {str(choice)[:200]!r}")
    return text


def _said(error: Any) -> str:
    """The server's own words."""
    body = error.body
    text = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(text or error.message).split())[:500]
