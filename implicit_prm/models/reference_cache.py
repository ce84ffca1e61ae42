"""A cache of per-token reference log-probabilities on disk.

They are computed once for all losses, betas, epochs, checkpoints and evaluations with the same reference. Each
reference has a folder, described by `identity.json`, with immutable shards. A shard is named by the hash of its bytes,
so a damaged one is detected before it is used, and its entries are computed again. Several processes may write at once.

    FOLDER/<identity>/identity.json
    FOLDER/<identity>/<sha256>.safetensors        keys [N, 16] uint8, offsets [N + 1] int64, values [tokens] float32
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from implicit_prm.utils.io import atomic_write, clear_os_errors, write_json

# Part of every identity. Increase it when the same weights and tokens give other numbers than before.
VERSION = 1
_SHARD_ENTRIES = 4096
Identity = dict[str, str]


def default_folder() -> Path:
    """`$IPR_CACHE`, or ~/.cache/implicit_prm."""
    return Path(os.environ.get("IPR_CACHE") or Path.home() / ".cache" / "implicit_prm") / "reference"


def key_of(prompt_ids: Sequence[int], ids: Sequence[int]) -> bytes:
    """A 16-byte hash of a prompt and a response."""
    lengths = np.array([len(prompt_ids), len(ids)], dtype=np.int64)
    tokens = np.array([*prompt_ids, *ids], dtype=np.int64)
    return hashlib.sha256(lengths.tobytes() + tokens.tobytes()).digest()[:16]


class ReferenceCache:
    """Log-probabilities under one reference.

    Args:
        identity: what they depend on besides the tokens: weights, dtype, device and so on.
        root: the folder of all caches; by default `default_folder()`.
    """

    def __init__(self, identity: Identity, root: str | Path | None = None) -> None:
        self.identity = {**identity, "version": str(VERSION)}
        name = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(root or default_folder()) / name
        self._values: dict[bytes, np.ndarray] = {}
        self._unwritten: dict[bytes, np.ndarray] = {}
        self._read: set[str] = set()
        self.refresh()

    def __contains__(self, key: bytes) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes, tokens: int) -> np.ndarray | None:
        """[tokens] float32 log-probabilities in nats; None if they are not in the cache."""
        found = self._values.get(key)
        return found if found is not None and len(found) == tokens else None

    def add(self, key: bytes, values: np.ndarray) -> None:
        """Add a response's [tokens] log-probabilities, which are written in batches and at `flush`."""
        self._values[key] = self._unwritten[key] = np.asarray(values, dtype=np.float32)
        if len(self._unwritten) >= _SHARD_ENTRIES:
            self.flush()

    def flush(self) -> None:
        """Write the entries added since the last time as one shard, completely or not at all.

        Raises:
            ImplicitPRMError: the disk is full, or the folder cannot be written.
        """
        if not self._unwritten:
            return
        keys = np.frombuffer(b"".join(self._unwritten), dtype=np.uint8).reshape(-1, 16)
        offsets = np.cumsum([0, *map(len, self._unwritten.values())])
        content = save({"keys": keys, "offsets": offsets, "values": np.concatenate(list(self._unwritten.values()))})
        name = f"{_name(content)}.safetensors"
        if not (self.folder / "identity.json").exists():
            write_json(self.folder / "identity.json", self.identity)
        with atomic_write(self.folder / name) as stream:
            stream.write(content)
        self._read.add(name)
        self._unwritten.clear()

    def refresh(self) -> None:
        """Read new shards, written by any process."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self._read:
                continue
            self._read.add(path.name)
            self._values |= _entries(path)


@dataclass(frozen=True)
class Stored:
    """The cache of one reference, as `ipr-cache` lists it."""

    folder: Path
    identity: Identity
    responses: int
    tokens: int
    size_bytes: int
    used: float  # time of the last write, in seconds since 1970


def stored(root: str | Path | None = None) -> list[Stored]:
    """List the caches of all references."""
    found = []
    for path in sorted(Path(root or default_folder()).glob("*/identity.json")):
        shards = list(path.parent.glob("*.safetensors"))
        entries = [entry for shard in shards for entry in _entries(shard).values()]
        size, used = sum(s.stat().st_size for s in shards), max((s.stat().st_mtime for s in shards), default=0.0)
        identity = json.loads(path.read_text(encoding="utf-8"))
        found.append(Stored(path.parent, identity, len(entries), sum(map(len, entries)), size, used))
    return found


def prune(caches: Iterable[Stored], older_than_days: float = 0.0) -> list[Stored]:
    """Delete caches whose last write is at least `older_than_days` ago, and return them."""
    old = [cache for cache in caches if time.time() - cache.used >= older_than_days * 86_400]
    for cache in old:
        with clear_os_errors(cache.folder):
            shutil.rmtree(cache.folder)
    return old


def _entries(path: Path) -> dict[bytes, np.ndarray]:
    """A shard's entries. A damaged shard is deleted with a warning and has none."""
    try:
        content = path.read_bytes()
        if _name(content) != path.stem:
            raise ValueError("its content does not match its name")
        shard = load(content)
    except FileNotFoundError:  # another process pruned it
        return {}
    except (SafetensorError, ValueError) as error:
        warnings.warn(f"{path}: damaged ({error}); its entries are computed again", stacklevel=3)
        path.unlink(missing_ok=True)
        return {}
    keys, offsets, values = shard["keys"], shard["offsets"], shard["values"]
    return {key.tobytes(): values[offsets[n] : offsets[n + 1]] for n, key in enumerate(keys)}


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
