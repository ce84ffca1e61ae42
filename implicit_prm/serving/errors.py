"""Every error as JSON of one shape, that of OpenAI's and vLLM's servers: {"error": {"message", "type", "code"}}."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from implicit_prm.serving.scoring_queue import QueueFullError, StoppedError
from implicit_prm.types import ImplicitPRMError

QUEUE_FULL = "too many responses wait (max_queued_responses); send the request again later"
RETRY = {"Retry-After": "1"}  # seconds


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as JSON.

    Args:
        status: HTTP status.
        message: what is wrong, and what to do about it.
        headers: more headers.
    """
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status, headers)


def install_error_handlers(app: FastAPI) -> None:
    """Answer exceptions with `error_response`."""

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(422, "; ".join(map(_sentence, error.errors())))

    @app.exception_handler(QueueFullError)
    async def full(_: Request, error: QueueFullError) -> JSONResponse:
        return error_response(429, QUEUE_FULL, RETRY)

    @app.exception_handler(StoppedError)
    async def stopped(_: Request, error: StoppedError) -> JSONResponse:
        return error_response(503, "the server is stopping", RETRY)

    @app.exception_handler(ImplicitPRMError)
    async def unusable(_: Request, error: ImplicitPRMError) -> JSONResponse:
        return error_response(422, str(error))

    @app.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> JSONResponse:
        return error_response(500, f"{type(error).__name__} in the server; its log has the traceback")


def _sentence(error: dict) -> str:
    """An error of pydantic, without the input, which may be long."""
    where = ""
    for part in error["loc"][1:]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    return f"{where or 'body'}: {error['msg']}"
