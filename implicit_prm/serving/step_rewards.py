"""The server's own route, `POST /v1/step_rewards`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from implicit_prm.evaluation.scorer import kind_of
from implicit_prm.serving.schemas import StepRewardsRequest, chat
from implicit_prm.serving.service import ScoringService, new_group
from implicit_prm.types import ImplicitPRMError


def step_rewards_route(service: ScoringService) -> APIRouter:
    """The route, answered by `service`."""
    router = APIRouter()

    @router.post("/v1/step_rewards")
    async def step_rewards(request: StepRewardsRequest) -> dict[str, Any]:
        """Step rewards, spans, prefix values and score of the responses to one prompt."""
        if request.messages is not None and request.messages[-1].role == "assistant":
            raise ImplicitPRMError("messages ends with a message of the assistant; send it in responses")
        if request.steps is not None and not service.takes_steps:
            raise ImplicitPRMError(
                "steps: this server splits responses itself; leave them out, or start it with steps=given (a scorer of "
                "your own needs the parameter given_steps)"
            )
        prompt = request.problem if request.messages is None else chat(request.messages)
        assert prompt is not None  # the schema has checked it
        finished = request.finished or [True] * len(request.responses)
        scores = await service.score(new_group(prompt, request.responses, finished, request.steps))
        return {
            "model": service.name,
            "kind": kind_of([scores]),
            "aggregate": service.config.aggregate,
            "over": service.config.over,
            "results": [
                {
                    "step_rewards": one.step_rewards,
                    "spans": [[span.start, span.end] for span in one.spans],
                    "prefix_values": one.prefix_values,
                    "score": service.value(one),
                }
                for one in scores
            ],
        }

    return router
