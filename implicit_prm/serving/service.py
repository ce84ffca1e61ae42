"""What all routes share: from prompts and responses to scores, by way of the queue."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Sequence
from dataclasses import replace

from fastapi import HTTPException

from implicit_prm.config import ServeConfig
from implicit_prm.data.rendered import RenderedResponse, split_rendered
from implicit_prm.data.tokenization import Encoder
from implicit_prm.evaluation.scorer import OpenScorer
from implicit_prm.rewards.implicit_reward import aggregate
from implicit_prm.serving.metrics import Metrics
from implicit_prm.serving.scoring_queue import ScoringQueue
from implicit_prm.types import Group, ImplicitPRMError, Prompt, StepScores


class ScoringService:
    """A scorer behind a queue.

    Args:
        scorer: what scores.
        config: how step values become one score, and the limits.
    """

    def __init__(self, scorer: OpenScorer, config: ServeConfig) -> None:
        self.name, self.config = scorer.name, config
        self._encoder: Encoder | None = getattr(scorer.model, "encoder", None)
        accepted = () if scorer.model is None else inspect.signature(scorer.model.score).parameters
        splits_itself = self._encoder is not None and self._encoder.text.steps != "given"
        self.takes_steps = "given_steps" in accepted and not splits_itself
        self.metrics = Metrics(lambda: len(self.queue))
        self.queue = ScoringQueue(scorer.score, config.max_queued_responses, self.metrics.observe_batch)

    def split(self, text: str, prompt: str | None = None) -> RenderedResponse:
        """Prompt and response of one text; see `split_rendered`."""
        if self._encoder is None:
            raise ImplicitPRMError(
                f"{self.name} has no chat template, so prompt and response cannot be told apart; send them apart to "
                "/v1/step_rewards"
            )
        return split_rendered(self._encoder, text, prompt)

    async def score(self, group: Group) -> list[StepScores]:
        """Scores of the responses of one group."""
        return (await self._scored([group]))[0]

    async def score_each(self, responses: Sequence[RenderedResponse]) -> list[StepScores]:
        """Scores of responses, each with its own prompt."""
        alone = [
            replace(new_group(one.prompt, [one.response], [one.finished]), id=f"{place} of this request")
            for place, one in enumerate(responses)
        ]
        return [scores[0] for scores in await self._scored(alone)]

    async def _scored(self, groups: Sequence[Group]) -> list[list[StepScores]]:
        count = sum(map(len, groups))
        if count > self.config.max_responses:
            raise ImplicitPRMError(
                f"{count} responses in one request; the limit is {self.config.max_responses} (max_responses)"
            )
        waiting = self.queue.submit(groups)
        try:
            return list(await asyncio.gather(*map(asyncio.wrap_future, waiting)))
        except ImplicitPRMError as error:
            if isinstance(error.__cause__, ImplicitPRMError):  # the scorer refused a response
                raise
            raise HTTPException(500, str(error)) from error
        finally:
            for scores in waiting:  # after an error, or if the client has gone, nobody reads the others
                scores.cancel()

    def value(self, scores: StepScores) -> float | None:
        """The score of a response, by the options `aggregate` and `over`; None for one without steps."""
        value = aggregate(scores, self.config.aggregate, self.config.over)
        return value if math.isfinite(value) else None

    def number(self, scores: StepScores) -> float:
        """The same for callers that expect a number; `empty_score` for a response without steps.

        Raises:
            ImplicitPRMError: no steps, and no `empty_score`.
        """
        value = self.value(scores)
        if value is None:
            value = self.config.empty_score
        if value is None:
            raise ImplicitPRMError(
                "a response without steps has no score; leave it out, or set empty_score on the server"
            )
        return value


def new_group(
    prompt: Prompt, responses: list[str], finished: list[bool], steps: list[list[str]] | None = None
) -> Group:
    """The responses of a request as a group."""
    # Errors start with "problem ID: ".
    return Group("of this request", prompt, responses, [None] * len(responses), finished, steps=steps)
