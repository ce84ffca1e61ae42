"""Credentials: recognised by their name or place, and hidden in everything that is written or printed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

HIDDEN = "***"

_WORDS = (
    "token|api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|secret|password|passwd|passphrase|credentials?|"
    "authorization|cookie"
)
# hub_token, apiKey, X-API-Key, AWS_SECRET_ACCESS_KEY; a bare `key` or `auth` as well.
_NAME = re.compile(rf"(?:.*(?:{_WORDS})|(?:.*[_-])?auth|key)", re.IGNORECASE)
_SPECIAL_TOKEN = re.compile(r"(?:.*_)?(?:bos|eos|pad|unk|sep|cls|mask|stop|image)_token", re.IGNORECASE)

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,20}://[^\s'\"<>]+")
_USER = re.compile(r"(?<=://)[^/?#]+@")
_PARAMETER = re.compile(r"([?&#][^=&#]*=)[^&#]+")
# hub_token=..., {api_key: ...}, "password": "..."
_VALUE = r"(?!\*\*\*)(?:\"[^\"]*\"|'[^']*'|(?:[^\s,;{}\[\]()'\":]|:(?!\s))+)"
_NAMED = re.compile(rf"((?<![\w.-])([\w.-]{{1,80}})=|(?:[{{,]\s*[\"']?|[\"'])([\w.-]{{1,80}})[\"']?\s*:\s*){_VALUE}")
_KNOWN_FORM = re.compile(r"\b(?:hf_[a-zA-Z0-9]{10,}|sk-[\w-]{10,}|(?<=Bearer )\S+|(?<=Basic )[\w+/=-]{8,})")


def is_secret(name: str) -> bool:
    """Whether an option, header or variable of this name holds a credential."""
    return bool(_NAME.fullmatch(name)) and not _SPECIAL_TOKEN.fullmatch(name)


def without_secrets(value: Any, name: str = "") -> Any:
    """Nested options with `HIDDEN` for every credential, for a file that records them.

    Credentials are the values of options with such a name, all values of `headers`, and, in any text, what
    `hide_secrets` recognises.

    Args:
        value: Options, as `dataclasses.asdict` gives them; not changed.
        name: Name of the option that holds `value`.
    """
    if value is None or isinstance(value, bool):
        return value
    if is_secret(name):
        return HIDDEN
    if isinstance(value, Mapping):
        headers = name.lower().endswith("headers")
        return {key: HIDDEN if headers and one else without_secrets(one, str(key)) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(one) for one in value]
    return hide_secrets(value) if isinstance(value, str) else value


def secret_values(value: Any, name: str = "") -> Iterator[str]:
    """The texts that `without_secrets` hides because of the name of their option."""
    if isinstance(value, Mapping):
        headers = name.lower().endswith("headers")
        for key, one in value.items():
            yield from secret_values(one, "token" if headers or is_secret(name) else str(key))
    elif isinstance(value, str) and value and is_secret(name):
        yield value


def hide_secrets(text: str, known: Collection[str] = ()) -> str:
    """A text with `HIDDEN` for credentials: in URLs (user, parameters), after such a name, or of a known form.

    Args:
        text: A message or a command line.
        known: Credentials that are hidden wherever they stand.
    """
    for one in known:
        text = text.replace(one, HIDDEN)
    text = _URL.sub(lambda url: _PARAMETER.sub(rf"\1{HIDDEN}", _USER.sub(f"{HIDDEN}@", url[0])), text)
    text = _NAMED.sub(lambda found: found[1] + HIDDEN if _ends_secret(found[2] or found[3]) else found[0], text)
    return _KNOWN_FORM.sub(HIDDEN, text)


def hide_argument(argument: str) -> str:
    """An argument NAME=VALUE of the command line without credentials."""
    name, equals, _ = argument.partition("=")
    return f"{name}={HIDDEN}" if equals and _ends_secret(name) else hide_secrets(argument)


def _ends_secret(dotted_name: str) -> bool:
    return is_secret(dotted_name.rpartition(".")[2])
