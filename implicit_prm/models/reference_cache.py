"""Per-token reference log-probabilities on disk, by content: they are computed once for all losses, betas, epochs,
checkpoints and evaluations that share a reference.

A folder per reference (`identity.json` says which) holds shards that are never changed once written. A shard's name is
the hash of its bytes, so a damaged one is recognised before anything is read from it, and its entries are computed
again. Several processes may write at once: each writes shards of its own, and the same content under the same name.

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

# Part of every identity: raise it when the same weights and tokens give other numbers than before.
VERSION = 1
_SHARD_ENTRIES = 4096
Identity = dict[str, str]


def default_folder() -> Path:
    """`$IPR_CACHE`, or ~/.cache/implicit_prm."""
    return Path(os.environ.get("IPR_CACHE") or Path.home() / ".cache" / "implicit_prm") / "reference"


def key_of(prompt_ids: Sequence[int], ids: Sequence[int]) -> bytes:
    """16 bytes that stand for a response behind its prompt."""
    lengths = np.array([len(prompt_ids), len(ids)], dtype=np.int64)
    tokens = np.array([*prompt_ids, *ids], dtype=np.int64)
    return hashlib.sha256(lengths.tobytes() + tokens.tobytes()).digest()[:16]


class ReferenceCache:
    """What one reference says of responses.

    Args:
        identity: what the numbers depend on besides the tokens: weights, dtype, and so on.
        root: the folder of all caches, by default `default_folder()`.
    """

    def __init__(self, identity: Identity, root: str | Path | None = None) -> None:
        self.identity = {**identity, "version": str(VERSION)}
        name = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(root or default_folder()) / name
        self._values: dict[bytes, np.ndarray] = {}
        self._waiting: dict[bytes, np.ndarray] = {}
        self._read: set[str] = set()
        self.refresh()

    def __contains__(self, key: bytes) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes, tokens: int) -> np.ndarray | None:
        """[tokens] float32 log-probabilities in nats, or None if they are not there."""
        found = self._values.get(key)
        return found if found is not None and len(found) == tokens else None

    def add(self, key: bytes, values: np.ndarray) -> None:
        """Keep a response's [tokens] log-probabilities; on disk after some thousands of them, or at `flush`."""
        self._values[key] = self._waiting[key] = np.asarray(values, dtype=np.float32)
        if len(self._waiting) >= _SHARD_ENTRIES:
            self.flush()

    def flush(self) -> None:
        """Write what waits as one shard.

        Raises:
            ImplicitPRMError: the disk is full or the folder cannot be written; nothing is half written.
        """
        if not self._waiting:
            return
        keys = np.frombuffer(b"".join(self._waiting), dtype=np.uint8).reshape(-1, 16)
        offsets = np.cumsum([0, *map(len, self._waiting.values())])
        content = save({"keys": keys, "offsets": offsets, "values": np.concatenate(list(self._waiting.values()))})
        name = f"{_name(content)}.safetensors"
        if not (self.folder / "identity.json").exists():
            write_json(self.folder / "identity.json", self.identity)
        with atomic_write(self.folder / name) as stream:
            stream.write(content)
        self._read.add(name)
        self._waiting.clear()

    def refresh(self) -> None:
        """Read the shards that were written since, by whomever."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self._read:
                continue
            self._read.add(path.name)
            self._values |= _entries(path)


@dataclass(frozen=True)
class Stored:
    """One reference's folder as `ipr-cache` shows it."""

    folder: Path
    identity: Identity
    responses: int
    tokens: int
    size_bytes: int
    used: float  # seconds since 1970 when it was last written


def stored(root: str | Path | None = None) -> list[Stored]:
    """Every reference in the cache."""
    found = []
    for path in sorted(Path(root or default_folder()).glob("*/identity.json")):
        shards = list(path.parent.glob("*.safetensors"))
        entries = [entry for shard in shards for entry in _entries(shard).values()]
        size, used = sum(s.stat().st_size for s in shards), max((s.stat().st_mtime for s in shards), default=0.0)
        identity = json.loads(path.read_text(encoding="utf-8"))
        found.append(Stored(path.parent, identity, len(entries), sum(map(len, entries)), size, used))
    return found


def prune(caches: Iterable[Stored], older_than_days: float = 0.0) -> list[Stored]:
    """Delete caches that were last written so long ago; returns those that are gone."""
    gone = [one for one in caches if time.time() - one.used >= older_than_days * 86_400]
    for one in gone:
        with clear_os_errors(one.folder):
            shutil.rmtree(one.folder)
    return gone


def _entries(path: Path) -> dict[bytes, np.ndarray]:
    """A shard's entries; none, with a warning, if it is not what its name says."""
    try:
        content = path.read_bytes()
        if _name(content) != path.stem:
            raise ValueError("its content is not what its name says")
        shard = load(content)
    except FileNotFoundError:  # pruned in the meantime
        return {}
    except (SafetensorError, ValueError) as error:
        warnings.warn(f"{path}: damaged ({error}); what it held is computed again", stacklevel=3)
        path.unlink(missing_ok=True)
        return {}
    keys, offsets, values = shard["keys"], shard["offsets"], shard["values"]
    return {key.tobytes(): values[offsets[n] : offsets[n + 1]] for n, key in enumerate(keys)}


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
