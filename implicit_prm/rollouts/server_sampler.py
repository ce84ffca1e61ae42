"""Sampling from an OpenAI-compatible server (vLLM, SGLang, llama.cpp) with concurrent requests.

This module handles servers without `n`, replies without a usable response, and problems that the server rejects;
`server_client` the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

from implicit_prm.config import SamplingConfig, ServerConfig, TextConfig
from implicit_prm.data.chat_template import as_chat
from implicit_prm.data.tokenization import build_prompt
from implicit_prm.rollouts.server_client import ServerClient, request_seed
from implicit_prm.rollouts.server_replies import Responses, choices_of
from implicit_prm.rollouts.workers import in_threads
from implicit_prm.types import ImplicitPRMError, Problem, Prompt, Samples
from implicit_prm.utils.distributed import Processes

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
        self._policy, self._sampling, self._text, self._say = policy, sampling, text, say
        self._client = ServerClient(policy, say)
        self._raw = text.prompt_template.startswith("raw:")
        self._extra_body = policy.extra_body
        if text.template_kwargs:  # as vLLM and SGLang name them
            self._extra_body = {**(policy.extra_body or {}), "chat_template_kwargs": text.template_kwargs}
        self.identity: dict[str, Any] = {
            "model": self._client.model,
            "chat_template_sha256": None if self._raw else "applied by the server",
        }

    def sample(self, problems: Sequence[Problem], done: Container[str], processes: Processes) -> Iterator[Samples]:
        """Responses to the problems whose id is not in `done`, as they arrive.

        A problem that the server rejects (its prompt is too long) is yielded as refused. After any other failure, no
        new problem is started, those in flight are yielded, and then the error is raised.
        """
        if processes.size > 1:
            raise ImplicitPRMError("policy=server runs in one process; launch one and raise policy.concurrency")
        supports_n = self._supports_n()

        def responses(problem: Problem) -> Samples:
            return self._responses(problem, supports_n)

        yield from in_threads(
            [problem for problem in problems if problem.id not in done], responses, self._policy.concurrency
        )

    def _responses(self, problem: Problem, supports_n: bool) -> Samples:
        """All responses to one problem, in one request or as many as needed."""
        prompt, wanted = build_prompt(problem.text, self._text), self._sampling.n
        responses = Responses()
        try:
            while (missing := wanted - responses.received) > 0:
                seed = request_seed(self._sampling.seed, problem.id, responses.received)
                reply = self._request(prompt, missing if supports_n else 1, seed)
                responses.add(reply, missing, self._sampling.max_new_tokens)
        except self._client.errors as error:
            if reason := self._client.rejection(error):
                return Samples(problem, [], [], refused=reason)
            raise self._client.explained(error, problem.id) from error
        self._client.warn_of_unknown(responses.unknown_reasons)
        return Samples(problem, responses.texts, responses.finished, responses.tokens, left_out=responses.unusable)

    def _request(self, prompt: Prompt, n: int, seed: int | None, retries: int | None = None, **changes: Any) -> Any:
        options = self._client.options(
            self._sampling, seed, extra_body=self._extra_body, **({"n": n} if n > 1 else {}), **changes
        )
        api = self._client.api(retries)
        if self._raw:
            return self._client.run(api.completions.create(prompt=prompt, **options))
        return self._client.run(api.chat.completions.create(messages=as_chat(prompt), **options))

    def _supports_n(self) -> bool:
        """Does one request return several responses? Found out with one token; llama.cpp answers 500.

        This is also the first check that the server accepts such requests at all.
        """
        prompt, seed = build_prompt(_PROBE, self._text), None if self._sampling.seed is None else 0
        if self._sampling.n > 1:
            try:
                reply = self._request(prompt, 2, seed, retries=min(2, self._policy.retries), max_tokens=1)
                if len(choices_of(reply)) > 1:
                    return True
            except self._client.errors:
                pass  # the plain request below shows whether the server works
        try:
            choices_of(self._request(prompt, 1, seed, max_tokens=1))
        except self._client.errors as error:
            raise self._client.explained(error, "a short first request") from error
        if self._sampling.n > 1:
            self._say(f"{self._policy.base_url} does not support n: {self._sampling.n} requests per problem")
        return False
