"""What the server counts, in the format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POWERS_OF_TWO = [2**power for power in range(13)]


class Metrics:
    """The counters of one server.

    Args:
        queued_responses: returns the number of responses that wait.
    """

    def __init__(self, queued_responses: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # CPU seconds, resident memory, open files
        self.requests = Counter(
            "ipr_requests", "Requests that were answered.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "ipr_request_seconds", "Seconds from a request to its answer.", ["route"], registry=self.registry
        )
        self.batch_requests = Histogram(
            "ipr_batch_requests",
            "Requests that were scored together.",
            buckets=_POWERS_OF_TWO,
            registry=self.registry,
        )
        self.batch_responses = Histogram(
            "ipr_batch_responses",
            "Responses that were scored together.",
            buckets=_POWERS_OF_TWO,
            registry=self.registry,
        )
        waiting = Gauge("ipr_queued_responses", "Responses that wait to be scored.", registry=self.registry)
        waiting.set_function(queued_responses)

    def observe_batch(self, requests: int, responses: int) -> None:
        """Count requests that are scored together, and their responses."""
        self.batch_requests.observe(requests)
        self.batch_responses.observe(responses)


class MeasureRequests:
    """ASGI middleware that counts requests by route and status.

    Args:
        app: the application inside.
        metrics: where they are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            # Not the path as it was sent: every one of them would become a label.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)
