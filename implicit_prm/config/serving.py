"""Options of `ipr-serve`: the checkpoint, how its step values become one score, the address and the limits."""

from __future__ import annotations

from dataclasses import dataclass

from implicit_prm.config.checkpoint import CheckpointConfig
from implicit_prm.config.evaluation import Aggregate, Over
from implicit_prm.config.models import StepRule
from implicit_prm.config.validation import check_range
from implicit_prm.types import ImplicitPRMError


@dataclass(kw_only=True)
class ServeConfig(CheckpointConfig):
    """`ipr-serve`: score responses over HTTP.

    Args:
        steps: Step rule; None as in training.
        aggregate: How step values become the score of a response.
        over: Value of a step: its reward (`step`), the mean reward of its tokens (`step_mean`), or the sum of the
            rewards up to its end (`prefix`).
        empty_score: Score of a response without steps on the routes whose callers expect a number; None refuses it.
        host: Address to listen on; 0.0.0.0 for all of the machine's.
        port: Port to listen on; 0 for any free one.
        api_key_env: Environment variable that holds the API key; None for no key.
        max_body_bytes: Largest body of a request.
        max_responses: Largest number of responses in one request.
        max_queued_responses: Number of responses that may wait to be scored.
        reference_cache_entries: Number of responses whose reference log-probabilities are kept in memory.
        stop_timeout_s: Seconds that a stop waits for requests that are running; None for as long as they take.
    """

    steps: StepRule | None = None
    aggregate: Aggregate = "min"
    over: Over = "step"
    empty_score: float | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    api_key_env: str | None = None
    max_body_bytes: int = 16_000_000
    max_responses: int = 1024
    max_queued_responses: int = 8192
    reference_cache_entries: int = 16_384
    stop_timeout_s: int | None = 60

    def validate(self) -> None:
        super().validate()
        if self.checkpoint is None:
            raise ImplicitPRMError(
                "checkpoint: nothing to score with; set checkpoint=FOLDER (of ipr-train or ipr-baseline)"
            )
        check_range(self, "empty_score")
        check_range(self, "port", at_least=0, at_most=65535)
        check_range(self, "max_body_bytes", "max_responses", "reference_cache_entries", "stop_timeout_s", at_least=1)
        if self.max_queued_responses < self.max_responses:
            raise ImplicitPRMError(
                f"max_queued_responses={self.max_queued_responses}: expected at least max_responses, "
                f"{self.max_responses}; the largest request would never be accepted"
            )
