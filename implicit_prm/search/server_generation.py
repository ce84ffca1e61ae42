"""Generation by an OpenAI-compatible server: a response is continued by the endpoint for plain completions.

A request holds the tokens of the prompt, as the chat template writes it, and of the response so far, and stops at the
end of a step. The server must say whether it has stopped there or at the end of the response: vLLM has `stop_reason`,
SGLang `matched_stop`. With `chunk_tokens` any server will do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from implicit_prm.config import SearchConfig, ServerConfig
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models import loading
from implicit_prm.models.source import ModelSource
from implicit_prm.rollouts.server_client import ServerClient, request_seed
from implicit_prm.rollouts.server_replies import Responses, choices_of
from implicit_prm.search.protocols import Prefix, RefusedError
from implicit_prm.search.step_ends import SEPARATORS
from implicit_prm.types import ImplicitPRMError, Problem

# vLLM's and SGLang's names for: return the text that was stopped at.
_KEEP_STOP = {"include_stop_str_in_output": True, "no_stop_trim": True}


class ServerGenerator:
    """Connects to a server; see `Generator`. About `policy.concurrency` requests are in flight, n for each problem.

    Args:
        config: the options.
        rule: where a step ends.
        say: prints a warning.

    Raises:
        ImplicitPRMError: the server cannot be used, or the tokenizer cannot be opened.
    """

    def __init__(self, config: SearchConfig, rule: str, say: Callable[[str], None]) -> None:
        assert isinstance(config.policy, ServerConfig)
        self._config, self._client = config, ServerClient(config.policy, say)
        tokenizer = loading.open_tokenizer(ModelSource.resolve(config.tokenizer or config.policy.name))
        self._encoder = Encoder(tokenizer, config.problems.text)
        self._separator = SEPARATORS[rule] if config.by_step and config.chunk_tokens is None else None
        self.workers = max(1, config.policy.concurrency // config.sampling.n)
        self.is_reference = False
        self.identity: dict[str, Any] = {"model": self._client.model, "tokenizer": self._encoder.identity}

    def open(self, problem: Problem, place: int) -> ServerGeneration:
        """Start the responses to a problem; see `Generator`."""
        return ServerGeneration(self._config, self._client, self._encoder, self._separator, problem)


class ServerGeneration:
    """The responses to one problem, see `Generation`.

    Args:
        config: the options.
        client: of the server.
        encoder: of the model on the server.
        separator: text that ends a step; None for chunks and for whole responses.
        problem: the problem.
    """

    guide_tokens = 0

    def __init__(
        self, config: SearchConfig, client: ServerClient, encoder: Encoder, separator: str | None, problem: Problem
    ) -> None:
        assert isinstance(config.policy, ServerConfig)
        self._config, self._client, self._encoder, self._separator = config, client, encoder, separator
        self._problem, self._prompt_ids = problem, encoder.prompt_ids(problem.text)
        self._extra_body = {**(config.policy.extra_body or {}), **(_KEEP_STOP if separator else {})}
        self._prefixes = [Prefix(ids=None)]
        self._round = 0
        self.tokens = len(self._prompt_ids)

    def extend(self, parents: Sequence[int]) -> list[Prefix]:
        """Continue every open prefix to the end of its step, in as many requests; see `Generation`."""
        self._prefixes = [self._prefixes[parent] for parent in parents]
        slots = [slot for slot, prefix in enumerate(self._prefixes) if not prefix.done]
        texts = [self._prefixes[slot].text for slot in slots]
        encoded = self._encoder.responses(texts, [False] * len(texts))
        lengths = [len(one.ids) for one in encoded]
        try:
            requests = [self._request(slot, one.ids) for slot, one in zip(slots, encoded, strict=True)]
            replies = self._client.run(_all(requests))
            for slot, length, reply in zip(slots, lengths, replies, strict=True):
                self._prefixes[slot] = self._grown(self._prefixes[slot], length, reply)
        except self._client.errors as error:
            if reason := self._client.rejection(error):
                raise RefusedError(reason) from error
            raise self._client.explained(error, self._problem.id) from error
        self._round += 1
        return self._prefixes

    def _request(self, slot: int, ids: Sequence[int]) -> Any:
        sampling = self._config.sampling
        options = self._client.options(
            sampling,
            request_seed(sampling.seed, self._problem.id, slot, self._round),
            extra_body=self._extra_body,
            max_tokens=self._allowed(len(ids)),
            **({"stop": [self._separator]} if self._separator else {}),
        )
        return self._client.api().completions.create(prompt=[*self._prompt_ids, *ids], **options)

    def _allowed(self, length: int) -> int:
        """How many tokens may be generated after a prefix of so many."""
        left = max(1, self._config.sampling.max_new_tokens - length)
        return left if self._config.chunk_tokens is None else min(left, self._config.chunk_tokens)

    def _grown(self, prefix: Prefix, length: int, reply: Any) -> Prefix:
        """The prefix with what the server has added to its `length` tokens."""
        responses = Responses()
        responses.add(reply, 1, self._allowed(length))
        self._client.warn_of_unknown(responses.unknown_reasons)
        self.tokens += responses.tokens
        if not responses.texts:  # refused by a filter, for example
            return replace(prefix, cut_off=True)
        added, ended = responses.texts[0], responses.finished[0]
        full = length + responses.tokens >= self._config.sampling.max_new_tokens
        if ended and self._separator is not None and self._at_separator(choices_of(reply)[0], added):
            text = prefix.text + added.removesuffix(self._separator) + self._separator
            return replace(prefix, text=text, cut_off=full)
        cut_off = not ended and (full or self._config.chunk_tokens is None)
        return replace(prefix, text=prefix.text + added, finished=ended, cut_off=cut_off)

    def _at_separator(self, choice: Any, added: str) -> bool:
        """Whether the server has stopped at the end of a step, and not at the end of the response."""
        assert self._separator is not None
        if added.endswith(self._separator):
            return True
        given = [getattr(choice, name) for name in ("stop_reason", "matched_stop") if hasattr(choice, name)]
        if not given:
            raise ImplicitPRMError(
                "the server does not say whether it has stopped at the end of a step or of the response (vLLM and "
                "SGLang do); set chunk_tokens, or algorithm=best_of_n"
            )
        return self._separator in given


async def _all(requests: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*requests)
