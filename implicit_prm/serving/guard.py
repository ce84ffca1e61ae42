"""Requests that are refused before their body is read: no API key, or a body over the limit."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Mapping

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from implicit_prm.serving.errors import error_response
from implicit_prm.types import ImplicitPRMError

# Probes and Prometheus come without a key; what they read says nothing about requests.
OPEN_PATHS = ("/health", "/metrics")


def api_key(variable: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The API key in an environment variable; None if no variable is named.

    Raises:
        ImplicitPRMError: the variable is not set, or empty.
    """
    if variable is None:
        return None
    if not (key := environment.get(variable)):
        raise ImplicitPRMError(
            f"api_key_env={variable}: expected an API key in this environment variable, which is empty"
        )
    return key


class Guard:
    """ASGI middleware that asks for the API key (401) and limits the size of bodies (413).

    The key comes as `Authorization: Bearer KEY`, or as the password in the address, `http://any:KEY@host:port/route`,
    for callers that have an option for the address only.

    Args:
        app: the application inside.
        key: the API key; None lets everyone in.
        max_body_bytes: largest body.
    """

    def __init__(self, app: ASGIApp, key: str | None, max_body_bytes: int) -> None:
        self._app, self._key, self._limit = app, key, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._key is not None and scope["path"] not in OPEN_PATHS and not _has_key(headers, self._key):
            refused = error_response(401, "expected the API key, as Authorization: Bearer KEY")
            await refused(scope, receive, send)
            return
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._limit:
            await error_response(413, self._too_large)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(413, self._too_large)
            return message

        await self._app(scope, counted, send)

    @property
    def _too_large(self) -> str:
        return f"the body has more than {self._limit} bytes (max_body_bytes); send fewer responses in one request"


def _has_key(headers: Headers, key: str) -> bool:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value).decode().partition(":")[2]
        except ValueError:  # neither base64 nor UTF-8
            return False
    elif scheme.lower() != "bearer":
        return False
    return secrets.compare_digest(value.encode(), key.encode())  # in constant time
