"""Requests, the clients that send them, and a comparison of the answers with direct scoring."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from implicit_prm import ImplicitPRM
from implicit_prm.types import Group

ROUTE = "/v1/step_rewards"


@dataclass(frozen=True)
class Request:
    """Responses to one prompt."""

    prompt: Any
    responses: list[str]

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        return {"problem" if isinstance(self.prompt, str) else "messages": self.prompt, "responses": self.responses}


@dataclass(frozen=True)
class Answer:
    """What came back: step rewards per response, or an error; and after how many seconds."""

    request: Request
    seconds: float
    step_rewards: list[list[float]] | None = None
    error: str = ""


def requests(groups: Sequence[Group], responses: int, seed: int) -> Iterator[Request]:
    """Endless requests of up to `responses` responses, prompt by prompt.

    Their numbers are replaced by random ones, so that no text comes twice and the reference cache cannot answer.
    """
    rng = random.Random(seed)
    while True:
        for group in groups:
            texts = [re.sub(r"\d+", lambda _: str(rng.randrange(50)), text) for text in group.completions]
            for start in range(0, len(texts), responses):
                yield Request(group.prompt, texts[start : start + responses])


async def send(
    address: str, waiting: Iterator[Request], concurrency: int, answers: list[Answer] | None = None
) -> list[Answer]:
    """Send all requests from `concurrency` clients, each of which waits for its answer before the next request.

    Args:
        address: of the server.
        waiting: the requests.
        concurrency: number of clients.
        answers: a list to add the answers to as they come.

    Returns:
        One answer per request, in the order of their arrival.
    """
    answers = [] if answers is None else answers
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)

    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=120, trust_env=False) as client:

        async def one_client() -> None:
            for request in waiting:
                answers.append(await _post(client, request))

        await asyncio.gather(*(one_client() for _ in range(concurrency)))
    return answers


async def _post(client: httpx.AsyncClient, request: Request) -> Answer:
    started = time.perf_counter()
    try:
        reply = await client.post(ROUTE, json=request.body)
        seconds = time.perf_counter() - started
        if reply.status_code != 200:
            return Answer(request, seconds, error=f"status {reply.status_code}")
        return Answer(request, seconds, [one["step_rewards"] for one in reply.json()["results"]])
    except httpx.HTTPError as error:
        return Answer(request, time.perf_counter() - started, error=type(error).__name__)


def largest_difference(answers: Sequence[Answer], prm: ImplicitPRM) -> float:
    """Largest absolute difference between a step reward in an answer and by direct scoring, in beta x nats.

    Infinite if an answer has another number of responses or steps.
    """
    largest = 0.0
    for answer in answers:
        if answer.step_rewards is None:
            continue
        direct = [one.step_rewards for one in prm.score(answer.request.prompt, answer.request.responses)]
        if list(map(len, direct)) != list(map(len, answer.step_rewards)):
            return float("inf")
        pairs = zip(direct, answer.step_rewards, strict=True)
        largest = max([largest, *(abs(x - y) for ours, theirs in pairs for x, y in zip(ours, theirs, strict=True))])
    return largest
