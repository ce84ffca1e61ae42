"""One time limit for a whole request: connecting, waiting, retries, and a body that arrives byte by byte.

The timeout of an HTTP client starts again with every byte and every retry.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from implicit_prm.types import ImplicitPRMError

T = TypeVar("T")


class TimeLimit:
    """Runs coroutines of several threads in an event loop, each for at most `limit_s` seconds.

    The loop's thread is a daemon: an interrupted program must not wait for a request or for the pause before a retry.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, request: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine.

        Raises:
            ImplicitPRMError: it took longer than the limit, and was cancelled.
        """
        bounded = asyncio.wait_for(request, self._limit_s)
        try:
            return asyncio.run_coroutine_threadsafe(bounded, self._loop).result()
        except asyncio.TimeoutError:
            raise ImplicitPRMError(
                f"no whole reply within policy.timeout_s={self._limit_s:g}, retries included; raise it, or lower "
                "policy.concurrency or sampling.max_new_tokens"
            ) from None
