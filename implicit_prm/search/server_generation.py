"""Generation by an OpenAI-compatible server: a response is continued by the endpoint for plain completions.

A request holds the tokens of the prompt, as the chat template writes it, and of the response so far, and stops at the
end of a step. The server must say whether it has stopped there or at the end of the response: vLLM has `stop_reason`,
SGLang `matched_stop`. With `chunk_tokens` any server will do.

A server stops at fixed texts, a step ends by a rule. Where the server has stopped before the step has ended, at a line
break before its first word, another request continues it; where it has not seen the end of the step, as in a blank line
of many spaces, what follows the step is dropped, and generated again after the step is scored.
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
from implicit_prm.search.step_ends import step_end
from implicit_prm.types import ImplicitPRMError, Problem

# By step rule, the texts that a server stops at. A blank line may hold white space, most often none, a blank or a tab,
# or the carriage return of a Windows text. OpenAI's API takes four texts.
_STOPS = {"newline": ["\n"], "blank_line": ["\n\n", "\n \n", "\n\t\n", "\n\r\n"]}
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
        self._rule = rule if config.by_step and config.chunk_tokens is None else None
        self.workers = max(1, config.policy.concurrency // config.sampling.n)
        self.is_reference = False
        self.identity: dict[str, Any] = {"model": self._client.model, "tokenizer": self._encoder.identity}

    def open(self, problem: Problem, place: int) -> ServerGeneration:
        """Start the responses to a problem; see `Generator`."""
        return ServerGeneration(self._config, self._client, self._encoder, self._rule, problem)


class ServerGeneration:
    """The responses to one problem, see `Generation`.

    Args:
        config: the options.
        client: of the server.
        encoder: of the model on the server.
        rule: where a step ends; None for chunks and for whole responses.
        problem: the problem.
    """

    guide_tokens = 0

    def __init__(
        self, config: SearchConfig, client: ServerClient, encoder: Encoder, rule: str | None, problem: Problem
    ) -> None:
        assert isinstance(config.policy, ServerConfig)
        self._config, self._client, self._encoder, self._rule = config, client, encoder, rule
        self._stops = [] if rule is None else _STOPS[rule]
        self._problem, self._prompt_ids = problem, encoder.prompt_ids(problem.text)
        self._extra_body = {**(config.policy.extra_body or {}), **(_KEEP_STOP if rule else {})}
        self._prefixes = [Prefix(ids=None)]
        self._round = 0
        self.tokens = len(self._prompt_ids)

    def extend(self, parents: Sequence[int]) -> list[Prefix]:
        """Continue every open prefix to the end of its step, each in a request as a rule; see `Generation`."""
        self._prefixes = [self._prefixes[parent] for parent in parents]
        starts = [len(prefix.text) for prefix in self._prefixes]
        growing = [slot for slot, prefix in enumerate(self._prefixes) if not prefix.done]
        while growing:
            self._grow(growing, starts)
            growing = [slot for slot in growing if not self._stopped(self._prefixes[slot], starts[slot])]
        return self._prefixes

    def _stopped(self, prefix: Prefix, start: int) -> bool:
        """Whether the step that starts at the character `start` has ended."""
        return prefix.done or self._rule is None or step_end(prefix.text[start:], self._rule) is not None

    def _grow(self, slots: Sequence[int], starts: Sequence[int]) -> None:
        """Continue the prefixes in these slots, in as many requests."""
        texts = [self._prefixes[slot].text for slot in slots]
        encoded = self._encoder.responses(texts, [False] * len(texts))
        try:
            requests = [self._request(slot, one.ids) for slot, one in zip(slots, encoded, strict=True)]
            replies = self._client.run(_all(requests))
            for slot, one, reply in zip(slots, encoded, replies, strict=True):
                grown = self._grown(self._prefixes[slot], len(one.ids), reply)
                self._prefixes[slot] = self._cut_to_step(grown, starts[slot])
        except self._client.errors as error:
            if reason := self._client.rejection(error):
                raise RefusedError(reason) from error
            raise self._client.explained(error, self._problem.id) from error
        self._round += 1

    def _request(self, slot: int, ids: Sequence[int]) -> Any:
        sampling = self._config.sampling
        options = self._client.options(
            sampling,
            request_seed(sampling.seed, self._problem.id, slot, self._round),
            extra_body=self._extra_body,
            max_tokens=self._allowed(len(ids)),
            **({"stop": self._stops} if self._stops else {}),
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
        stop = self._stop(choices_of(reply)[0], added) if ended and self._stops else None
        if stop is not None:
            return replace(prefix, text=prefix.text + added.removesuffix(stop) + stop, cut_off=full)
        cut_off = not ended and (full or self._config.chunk_tokens is None)
        return replace(prefix, text=prefix.text + added, finished=ended, cut_off=cut_off)

    def _cut_to_step(self, prefix: Prefix, start: int) -> Prefix:
        """The prefix without what follows the step that starts at the character `start`."""
        length = None if self._rule is None else step_end(prefix.text[start:], self._rule)
        if length is None or start + length == len(prefix.text):
            return prefix
        return replace(prefix, text=prefix.text[: start + length], finished=False, cut_off=False)

    def _stop(self, choice: Any, added: str) -> str | None:
        """The text that the server has stopped at; None at the end of the response."""
        for stop in self._stops:
            if added.endswith(stop):
                return stop
        given = [getattr(choice, name) for name in ("stop_reason", "matched_stop") if hasattr(choice, name)]
        if not given:
            raise ImplicitPRMError(
                "the server does not say whether it has stopped at the end of a step or of the response (vLLM and "
                "SGLang do); set chunk_tokens, or algorithm=best_of_n"
            )
        return next((stop for stop in self._stops if stop in given), None)


async def _all(requests: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*requests)
