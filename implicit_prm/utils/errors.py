"""The one exception type of the package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from implicit_prm.utils.secrets import hide_secrets


class ImplicitPRMError(ValueError):
    """Invalid input or options. The message names the row, file or option and how to fix it, and no credential."""

    def __init__(self, message: str) -> None:
        super().__init__(hide_secrets(message))


@contextlib.contextmanager
def error_context(where: str) -> Iterator[None]:
    """Prefix the message of an ImplicitPRMError raised inside with where it happened, as in "response 3: ..."."""
    try:
        yield
    except ImplicitPRMError as error:
        raise ImplicitPRMError(f"{where}: {error}") from None
