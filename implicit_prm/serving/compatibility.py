"""Routes of other servers, whose callers then need nothing but another address.

| route | server whose callers use it | answer |
|---|---|---|
| `/pooling` | vLLM: reward_hub, scripts for PRMs | a number for each step of each text |
| `/classify` | vLLM: verl | one number for each text |
| `/rerank`, `/v1/rerank`, `/v2/rerank` | vLLM, Jina, Cohere | the responses, the best one first |
| `/get_reward` | OpenRLHF's `serve_rm` | one number for each text |
| `/v1/score/evaluation` | LLaMA-Factory's API | one number for each text |
| `/remote_rm` | slime's `--rm-type remote_rm` | one number |
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, HTTPException

from implicit_prm.data.rendered import RenderedResponse
from implicit_prm.rewards.implicit_reward import aggregate_kind, sigmoid
from implicit_prm.serving.errors import QUEUE_FULL, RETRY
from implicit_prm.serving.schemas import (
    ClassifyRequest,
    GetRewardRequest,
    PoolingRequest,
    RemoteRMRequest,
    RerankRequest,
    ScoreEvaluationRequest,
    chat,
)
from implicit_prm.serving.scoring_queue import QueueFullError
from implicit_prm.serving.service import ScoringService, new_group
from implicit_prm.types import ImplicitPRMError, StepScores

# Ends each step of a response for Qwen2.5-Math-PRM, in the place of blank lines. reward_hub writes it for every server.
_STEP_TAG = "<extra_0>"


def compatibility_routes(service: ScoringService) -> APIRouter:
    """The routes, answered by `service`."""
    router = APIRouter()

    def score_of(one: StepScores, request: ClassifyRequest | RerankRequest) -> float:
        kind = aggregate_kind(one.kind, service.config.aggregate)
        return _activated(service.number(one), kind, request)

    @router.post("/pooling")
    async def pooling(request: PoolingRequest) -> dict[str, Any]:
        """Step rewards, one row per step; with task=classify, one score per text."""
        scores = await service.score_each(_responses(service, request))
        if request.task == "classify":
            data: list[list[Any]] = [[score_of(one, request)] for one in scores]
        else:
            data = [[[_activated(reward, one.kind, request)] for reward in one.step_rewards] for one in scores]
        items = [{"index": place, "object": "pooling", "data": values} for place, values in enumerate(data)]
        return _answer(service, "pool", items)

    @router.post("/classify")
    async def classify(request: ClassifyRequest) -> dict[str, Any]:
        """One score per text, as the probability of a single class."""
        try:
            scores = await service.score_each(_responses(service, request))
        except QueueFullError:  # verl sends a request again after a status of 5xx only
            raise HTTPException(503, QUEUE_FULL, RETRY) from None
        values = [score_of(one, request) for one in scores]
        items = [
            {"index": place, "label": None, "probs": [value], "num_classes": 1} for place, value in enumerate(values)
        ]
        return _answer(service, "classify", items)

    @router.post("/rerank")
    @router.post("/v1/rerank")
    @router.post("/v2/rerank")
    async def rerank(request: RerankRequest) -> dict[str, Any]:
        """The responses by their scores, the best one first."""
        texts = [one if isinstance(one, str) else one.text for one in request.documents]
        scores = await service.score(new_group(request.query, texts, [True] * len(texts)))
        values = [service.number(one) for one in scores]
        # By the scores themselves: high ones are all 1 after the sigmoid.
        order = sorted(range(len(texts)), key=lambda place: -values[place])[: request.top_n or None]
        results: list[dict[str, Any]] = [
            {"index": place, "relevance_score": score_of(scores[place], request)} for place in order
        ]
        if request.return_documents is not False:
            results = [one | {"document": {"text": texts[one["index"]]}} for one in results]
        return {"id": f"rerank-{uuid.uuid4().hex}", "model": service.name, "results": results}

    @router.post("/get_reward")
    async def get_reward(request: GetRewardRequest) -> dict[str, Any]:
        """The score of each query, as reward and as score."""
        prompts: Sequence[str | None] = request.prompts or [None] * len(request.query)
        split = [service.split(text, prompt) for text, prompt in zip(request.query, prompts, strict=True)]
        rewards = [service.number(one) for one in await service.score_each(split)]
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}}

    @router.post("/v1/score/evaluation")
    async def score_evaluation(request: ScoreEvaluationRequest) -> dict[str, Any]:
        """The score of each text."""
        scores = await service.score_each([service.split(text) for text in request.messages])
        return {
            "id": f"scoreval-{uuid.uuid4().hex}",
            "object": "score.evaluation",
            "model": service.name,
            "scores": [service.number(one) for one in scores],
        }

    @router.post("/remote_rm")
    async def remote_rm(request: RemoteRMRequest) -> float:
        """The score of the response, as a bare number."""
        prompt = request.prompt if isinstance(request.prompt, str) else chat(request.prompt)
        scores = await service.score(new_group(prompt, [request.response], [True]))
        return service.number(scores[0])

    return router


def _responses(service: ScoringService, request: ClassifyRequest) -> list[RenderedResponse]:
    """The responses of a request in vLLM's form: a chat, or rendered texts."""
    if request.messages is not None:
        *prompt, last = request.messages
        if last.role != "assistant" or not prompt:
            raise ImplicitPRMError("messages: expected a chat that ends with the assistant's message, the response")
        return [_untagged(RenderedResponse(chat(prompt), last.content, True))]
    texts = [request.input] if isinstance(request.input, str) else request.input or []
    return [_untagged(service.split(text)) for text in texts]


def _untagged(one: RenderedResponse) -> RenderedResponse:
    """The response with blank lines between its steps where they were tagged."""
    if not one.response.endswith(_STEP_TAG):
        return one
    return replace(one, response="\n\n".join(one.response.removesuffix(_STEP_TAG).split(_STEP_TAG)))


def _activated(value: float, kind: str, request: ClassifyRequest | RerankRequest) -> float:
    """A value as `use_activation` asks for it."""
    if kind == "probability" or request.use_activation is False:
        return value
    return sigmoid(value)


def _answer(service: ScoringService, kind: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": service.name,
        "data": items,
    }
