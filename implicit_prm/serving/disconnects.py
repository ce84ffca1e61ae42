"""Requests whose client has gone: their work is dropped from the queue."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from implicit_prm.serving.errors import error_response


class CancelDisconnected:
    """ASGI middleware that cancels a request when its client disconnects before the answer.

    Nobody reads what it answers then; its status, 499 as in nginx, is for the metrics.

    Args:
        app: the application inside. What it awaits is cancelled.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body_read, gone = asyncio.Event(), asyncio.Event()

        async def watch() -> None:
            await body_read.wait()
            await receive()  # after the body, the next message is that the client has disconnected
            gone.set()
            answering.cancel()

        async def noted_receive() -> Message:
            message = await receive()
            if not message.get("more_body", False):
                body_read.set()
            return message

        async def noted_send(message: Message) -> None:
            watching.cancel()  # the answer is there, so nothing is left to cancel
            await send(message)

        watching = asyncio.create_task(watch())
        answering = asyncio.ensure_future(self._app(scope, noted_receive, noted_send))
        try:
            await answering
        except asyncio.CancelledError:
            if not gone.is_set():  # the server is being stopped
                raise
            await error_response(499, "the client has disconnected")(scope, receive, send)
        finally:
            watching.cancel()
