"""A cache of per-token reference log-probabilities on disk.

They are computed once for all losses, betas, epochs, checkpoints and evaluations with the same reference. Each
reference has a folder, described by `identity.json`, with immutable shards. A shard is named by the hash of its bytes,
so a damaged one is detected before it is used, and its entries are computed again. Several processes may write at once.
The values are memory-mapped: processes that read the same cache share one copy.

    FOLDER/<identity>/identity.json
    FOLDER/<identity>/<sha256>.safetensors        keys [N, 16] uint8, offsets [N + 1] int64, values [tokens] float32
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import socket
import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.caches import Stored, cache_folder, read_identity
from implicit_prm.utils.distributed import Processes
from implicit_prm.utils.io import atomic_write, file_digest, write_json

# Part of every identity. Increase it when the same weights and tokens give other numbers than before.
VERSION = 1
_SHARD_ENTRIES = 4096
Identity = dict[str, str]


class ReferenceCache:
    """Log-probabilities under one reference.

    Args:
        identity: what they depend on besides the tokens: weights, dtype, device and so on.
        root: the folder of all caches; by default `$IPR_CACHE/reference` or ~/.cache/implicit_prm/reference.
    """

    def __init__(self, identity: Identity, root: str | Path | None = None) -> None:
        self.identity = {**identity, "version": str(VERSION)}
        name = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(root or cache_folder("reference")) / name
        self._values: dict[bytes, np.ndarray] = {}
        self._unwritten: dict[bytes, np.ndarray] = {}
        self._read: set[str] = set()
        self.written: list[str] = []  # names of the shards that this process wrote
        self._limit: int | None = None
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
        # A copy: a view of a tensor would keep the tensor, several times the size of the values.
        self._values[key] = self._unwritten[key] = np.array(values, dtype=np.float32)
        if len(self._unwritten) >= _SHARD_ENTRIES:
            self._flush_if_possible()

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
        self.written.append(name)
        self._values |= _mapped(self.folder / name)
        self._unwritten.clear()
        self._forget()

    def keep_at_most(self, entries: int) -> None:
        """Forget the oldest entries beyond this number from now on, for a process that never ends.

        They stay on disk, for the processes that open the cache later. A full disk no longer stops this process: what
        `add` cannot write is dropped with a warning.
        """
        self._limit = entries
        self._forget()

    def _flush_if_possible(self) -> None:
        try:
            self.flush()
        except ImplicitPRMError as error:
            if self._limit is None:
                raise
            warnings.warn(f"{error}; {len(self._unwritten)} entries are not kept on disk", stacklevel=4)
            self._unwritten.clear()
            self._forget()

    def _forget(self) -> None:
        if self._limit is not None:
            for key in list(islice(self._values, max(len(self._values) - self._limit, 0))):
                del self._values[key]

    def refresh(self, names: Iterable[str] = ()) -> None:
        """Read new shards, written by any process.

        Args:
            names: of shards that exist, which the listing of a folder on NFS may not show yet.
        """
        for name in sorted({*(path.name for path in self.folder.glob("*.safetensors")), *names} - self._read):
            self._read.add(name)
            self._values |= _entries(self.folder / name)

    def lacks(self, requests: Iterable[tuple[Any, Sequence[Sequence[int]], Sequence[bytes]]]) -> bool:
        """Whether the values of a response are missing. A request is a prompt, its responses and their keys."""
        return any(
            self.get(key, len(ids)) is None
            for _, responses, keys in requests
            for ids, key in zip(responses, keys, strict=True)
        )

    def require_shared(self, processes: Processes) -> None:
        """Check that every process sees what the first one writes. All processes call it.

        Raises:
            ImplicitPRMError: the folder is not the same one for all of them.
        """
        probe = self.folder / f".{secrets.token_hex(8)}"
        if processes.first:
            with atomic_write(probe):
                pass
        probe = self.folder / processes.gather(probe.name)[0]
        hosts = processes.gather(None if probe.exists() else socket.gethostname())
        if processes.first:
            probe.unlink()
        blind = sorted({host for host in hosts if host is not None})
        if blind:
            raise ImplicitPRMError(
                f"{self.folder.parent} is not shared with {', '.join(blind)}: what one process computes, the others "
                "would lack. Set reference_cache (or the environment variable IPR_CACHE) to a folder that all machines "
                "share"
            )


def stored(root: str | Path | None = None) -> list[Stored]:
    """List the caches of all references. Only the headers of their shards are read."""
    found = []
    for path in sorted(Path(root or cache_folder("reference")).glob("*/identity.json")):
        shards = list(path.parent.glob("*.safetensors"))
        size, used = sum(s.stat().st_size for s in shards), max((s.stat().st_mtime for s in shards), default=0.0)
        responses, tokens = map(sum, zip((0, 0), *map(_counts, shards), strict=True))
        content = f"{responses:,} responses, {tokens:,} tokens"
        found.append(Stored(path.parent, read_identity(path), content, size, used))
    return found


def _counts(path: Path) -> tuple[int, int]:
    """Numbers of responses and tokens of a shard; zeros if it is damaged."""
    with contextlib.suppress(SafetensorError, OSError), safe_open(path, framework="np") as shard:
        return shard.get_slice("keys").get_shape()[0], shard.get_slice("values").get_shape()[0]
    return 0, 0


def _entries(path: Path) -> dict[bytes, np.ndarray]:
    """A shard's entries. A damaged shard is deleted with a warning and has none."""
    try:
        if file_digest(path)[:32] != path.stem:
            raise ValueError("its content does not match its name")
        return _mapped(path)
    except FileNotFoundError:  # another process pruned it
        return {}
    except (SafetensorError, ValueError) as error:
        warnings.warn(f"{path}: damaged ({error}); its entries are computed again", stacklevel=3)
        path.unlink(missing_ok=True)
        return {}


def _mapped(path: Path) -> dict[bytes, np.ndarray]:
    """The entries of a whole shard; the values stay on disk until they are used."""
    with safe_open(path, framework="np") as shard:
        keys, offsets = shard.get_tensor("keys"), shard.get_tensor("offsets")
    if not offsets[-1]:
        return {key.tobytes(): np.zeros(0, dtype=np.float32) for key in keys}
    with path.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        start = json.loads(stream.read(header_bytes))["values"]["data_offsets"][0]
    # Mode c: torch warns of arrays that cannot be written to.
    mapped = np.memmap(path, np.float32, "c", 8 + header_bytes + start, shape=(int(offsets[-1]),))
    values = np.asarray(mapped)
    return {key.tobytes(): values[offsets[n] : offsets[n + 1]] for n, key in enumerate(keys)}


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
