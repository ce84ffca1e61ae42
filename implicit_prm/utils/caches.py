"""The folders of what is computed once and kept on disk, and how `ipr-cache` lists and deletes it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from implicit_prm.utils.io import clear_os_errors


def cache_folder(kind: str) -> Path:
    """`$IPR_CACHE/KIND`, or ~/.cache/implicit_prm/KIND."""
    return Path(os.environ.get("IPR_CACHE") or Path.home() / ".cache" / "implicit_prm") / kind


@dataclass(frozen=True)
class Stored:
    """One folder of a cache.

    Args:
        folder: where it is.
        identity: what its content depends on.
        content: how much it holds, as a phrase.
        size_bytes: on disk.
        used: time of the last write, in seconds since 1970.
    """

    folder: Path
    identity: Mapping[str, str]
    content: str
    size_bytes: int
    used: float


def read_identity(path: Path) -> dict[str, str]:
    """The identity that a folder of a cache describes itself by, in a JSON file; a damaged one is named as such."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in known.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {path.name: "damaged"}


def prune(caches: Iterable[Stored], older_than_days: float = 0.0) -> list[Stored]:
    """Delete caches whose last write is at least `older_than_days` ago, and return them."""
    old = [cache for cache in caches if time.time() - cache.used >= older_than_days * 86_400]
    for cache in old:
        with clear_os_errors(cache.folder):
            shutil.rmtree(cache.folder)
    return old
