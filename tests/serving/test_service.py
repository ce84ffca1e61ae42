"""From requests to scores: what the routes share."""

import asyncio

import pytest
from fastapi import HTTPException

from implicit_prm.config import ScorerConfig, ServeConfig
from implicit_prm.data.rendered import RenderedResponse
from implicit_prm.evaluation.scorer import wrap_scorer
from implicit_prm.serving.service import ScoringService
from tests.serving.conftest import Held


def test_the_rest_of_a_request_that_has_failed_is_not_scored():
    held = Held()
    service = ScoringService(wrap_scorer(held, ScorerConfig(), False), ServeConfig(checkpoint="any"))
    held.turns.release()
    with pytest.raises(HTTPException, match="bad"):
        asyncio.run(service.score_each([RenderedResponse(prompt, "1", True) for prompt in ("bad", "next", "last")]))
    held.turns.release(2)
    service.queue.join()
    assert "last" not in held.problems
