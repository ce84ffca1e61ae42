"""The web application: routes, limits, `/health` and `/metrics` around a scorer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from implicit_prm.config import ServeConfig
from implicit_prm.evaluation.scorer import OpenScorer
from implicit_prm.serving.compatibility import compatibility_routes
from implicit_prm.serving.disconnects import CancelDisconnected
from implicit_prm.serving.errors import install_error_handlers
from implicit_prm.serving.guard import Guard
from implicit_prm.serving.metrics import MeasureRequests
from implicit_prm.serving.service import ScoringService
from implicit_prm.serving.step_rewards import step_rewards_route


def create_app(scorer: OpenScorer, config: ServeConfig, key: str | None = None) -> FastAPI:
    """A web application (ASGI) that scores with `scorer`.

    Its thread scores until the application shuts down; what was accepted by then is answered.

    Args:
        scorer: from `open_checkpoint`, or any object with a method `score` in `wrap_scorer`.
        config: options; address and key variable are read by `serve`.
        key: the API key that requests must have; None for none.
    """
    service = ScoringService(scorer, config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.queue.join)

    # No pages of documentation, which load scripts from other servers; /openapi.json describes the routes.
    app = FastAPI(title="implicit-prm", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.queue = service.queue
    app.add_middleware(CancelDisconnected)
    app.add_middleware(Guard, key=key, max_body_bytes=config.max_body_bytes)
    app.add_middleware(MeasureRequests, metrics=service.metrics)
    install_error_handlers(app)

    @app.get("/health")
    async def health() -> JSONResponse:
        """Status 200 while responses are accepted and scored, else 503."""
        alive = service.queue.alive
        content = {
            "status": "ok" if alive else "stopping",
            "model": service.name,
            "queued_responses": len(service.queue),
        }
        return JSONResponse(content, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters in the format of Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    app.include_router(step_rewards_route(service))
    app.include_router(compatibility_routes(service))
    return app
