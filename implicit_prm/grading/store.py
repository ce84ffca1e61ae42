"""Results of the grading worker on disk, so that the same answers are compared only once.

A result is named by a hash of the function and its arguments. Each version of math-verify, SymPy and the rules here,
and each time limit, has a folder of its own. SQLite makes the file safe for several processes, and for one that is
killed.

    FOLDER/<identity>/identity.json
    FOLDER/<identity>/results.sqlite
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.caches import Stored, cache_folder, read_identity
from implicit_prm.utils.io import write_json

FILE = "results.sqlite"
_PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy")
_RULES = ("equality.py", "latex.py", "magnitudes.py", "reading.py")  # what the worker's results depend on
_BATCH = 1_000  # results that are written at a time
_TABLE = "CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, result TEXT) WITHOUT ROWID"
_READ = "SELECT result FROM results WHERE key = ?"
_WRITE = "INSERT OR IGNORE INTO results VALUES (?, ?)"


class ResultStore:
    """The results of one version of the rules. Threads may share a store.

    A file that cannot be read or written is left alone, with a warning: results are computed and not kept.

    Args:
        root: folder of all versions; by default `$IPR_CACHE/grading` or ~/.cache/implicit_prm/grading.
        limit_s: the worker's time limit, on which the result "timeout" depends.
    """

    def __init__(self, root: str | Path | None, limit_s: float) -> None:
        self.identity = _identity(limit_s)
        name = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        self.path = Path(root or cache_folder("grading")) / name / FILE
        self._unwritten: dict[bytes, str] = {}
        self._connection: sqlite3.Connection | None = None
        self._usable = True
        self._lock = threading.Lock()

    def get(self, function: str, arguments: Sequence[str]) -> str | None:
        """The result of a call, if it is known."""
        key = _key(function, arguments)
        with self._lock:
            if key in self._unwritten:
                return self._unwritten[key]
            if self._connection is None and not self.path.exists():
                return None
            rows = self._with_connection(lambda connection: connection.execute(_READ, (key,)).fetchall())
        return rows[0][0] if rows and isinstance(rows[0][0], str) else None

    def add(self, function: str, arguments: Sequence[str], result: str) -> None:
        """Keep the result of a call; it is written together with others, or by `close`."""
        with self._lock:
            self._unwritten[_key(function, arguments)] = result
            if len(self._unwritten) >= _BATCH:
                self._write()

    def close(self) -> None:
        """Write what is not written yet. The store remains usable."""
        with self._lock:
            self._write()
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _write(self) -> None:
        if not self._unwritten:
            return
        rows = list(self._unwritten.items())
        self._with_connection(lambda connection: connection.executemany(_WRITE, rows))
        if self._usable:  # else they stay in memory
            self._unwritten = {}

    def _with_connection(self, work: Any) -> Any:
        """Run statements as one transaction; the first failure is the last attempt."""
        if not self._usable:
            return None
        try:
            if self._connection is None:
                self._connection = self._connect()
            with self._connection:
                return work(self._connection)
        except (sqlite3.Error, OSError, ImplicitPRMError) as error:
            self._usable = False
            warnings.warn(f"{self.path}: {error}; results of grading are neither read nor kept", stacklevel=4)
            return None

    def _connect(self) -> sqlite3.Connection:
        if not (self.path.parent / "identity.json").exists():
            write_json(self.path.parent / "identity.json", self.identity)
        connection = sqlite3.connect(self.path, timeout=30, check_same_thread=False)
        connection.execute(_TABLE)
        return connection


def stored(root: str | Path | None = None) -> list[Stored]:
    """List the results of all versions."""
    found = []
    for path in sorted(Path(root or cache_folder("grading")).glob(f"*/{FILE}")):
        identity, content = read_identity(path.parent / "identity.json"), "damaged"
        with contextlib.suppress(sqlite3.Error), contextlib.closing(_open_to_read(path)) as connection:
            content = f"{connection.execute('SELECT COUNT(*) FROM results').fetchone()[0]:,} results"
        found.append(Stored(path.parent, identity, content, path.stat().st_size, path.stat().st_mtime))
    return found


def _open_to_read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


def _identity(limit_s: float) -> dict[str, str]:
    rules = hashlib.sha256(b"".join(Path(__file__).with_name(name).read_bytes() for name in _RULES))
    versions = {name: metadata.version(name) for name in _PACKAGES}
    return {**versions, "rules": rules.hexdigest()[:16], "limit_s": repr(float(limit_s))}


def _key(function: str, arguments: Sequence[str]) -> bytes:
    return hashlib.sha256(json.dumps([function, *arguments]).encode()).digest()[:16]
