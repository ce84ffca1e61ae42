"""Atomic writes: files and folders by rename, JSON lines by an append that is undone if it fails."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from implicit_prm.utils.errors import ImplicitPRMError


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Write `path` completely or not at all: a temporary file in the same folder is synced and renamed over it."""
    path = Path(path)
    with clear_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON text. NaN and infinity, which JSON does not have, become null."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | Path, value: Any) -> None:
    """`value` as indented JSON (`to_json`), atomically."""
    with atomic_write(path) as stream:
        stream.write((to_json(value, indent=2) + "\n").encode())


@contextlib.contextmanager
def atomic_folder(path: str | Path, replace_old: bool = False) -> Iterator[Path]:
    """Fill the folder `path` completely or not at all: a temporary folder is filled and renamed.

    Raises:
        ImplicitPRMError: the folder exists and `replace_old` is false, or it cannot be written.
    """
    path = Path(path)
    with clear_os_errors(path):
        if path.exists() and not replace_old:
            raise ImplicitPRMError(f"{path} exists already; choose another folder or delete it")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield unfinished
            unfinished.chmod(0o755)
            shutil.rmtree(path, ignore_errors=True)
            unfinished.replace(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


class JsonLines:
    """A JSON-lines file that rows are appended to, and that stays valid if the process is killed at any time.

    Opening the file removes an incomplete last line, which a killed process has left.

    Raises:
        ImplicitPRMError: the file exists and does not hold JSON lines. It is not changed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with clear_os_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self._mend()

    def _mend(self) -> None:
        whole = self.path.read_bytes()
        if whole and not whole.startswith(b"{"):
            raise ImplicitPRMError(f"{self.path} is not a file of JSON lines; choose another path")
        end = whole.rfind(b"\n") + 1
        try:
            json.loads(whole[end:] or b"{}")
        except ValueError:
            os.truncate(self.path, end)
            return
        if whole[end:]:  # a complete row without its newline, as some editors leave it
            with self.path.open("ab") as stream:
                stream.write(b"\n")

    def rows(self) -> list[dict[str, Any]]:
        """Every row written so far."""
        if not self.path.exists():
            return []
        rows = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").split("\n")[:-1], 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ImplicitPRMError(
                    f"{self.path}, line {number}: not JSON ({error}); repair or delete the line"
                ) from None
        return rows

    def append(self, row: dict[str, Any]) -> None:
        """Append a row and sync it to disk. On failure (a full disk) the file is left unchanged."""
        rest = memoryview((to_json(row) + "\n").encode())
        # Unbuffered: on a full disk, closing a buffer would write the rest into the space that truncation frees.
        with clear_os_errors(self.path), self.path.open("ab", buffering=0) as stream:
            before = stream.tell()
            try:
                while rest:
                    rest = rest[stream.write(rest) :]
                os.fsync(stream.fileno())
            except OSError:
                os.truncate(self.path, before)
                raise

    def replace(self, rows: Iterable[dict[str, Any]]) -> None:
        """Replace the content of the file by these rows, atomically."""
        with atomic_write(self.path) as stream:
            for row in rows:
                stream.write((to_json(row) + "\n").encode())


@contextlib.contextmanager
def clear_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into an ImplicitPRMError that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ImplicitPRMError(
                f"{path}: the disk is full. Everything written before is intact; free some space and run the same "
                "command again to resume"
            ) from error
        raise ImplicitPRMError(f"{path}: {error.strerror or error}") from error
