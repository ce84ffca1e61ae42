"""Atomic writes: files and folders by rename, JSON lines by an append that is undone if it fails."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import math
import mmap
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from implicit_prm.utils.errors import ImplicitPRMError
from implicit_prm.utils.unicode import LONE_SURROGATE

DISK_FULL = os.strerror(errno.ENOSPC)  # the words are all that safetensors' own errors have of it


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Write `path` completely or not at all: a temporary file in the same folder is synced and renamed over it."""
    path = Path(path)
    with clear_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = _unfinished(path)
        try:
            with unfinished.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    """A new name beside `path`. Not of `tempfile`, whose files only their owner can read, whatever the umask."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON text. NaN and infinity, which JSON does not have, become null; lone surrogates are escaped."""
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return LONE_SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


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

    Only one process may do so at a time (`lock.locked`): what a killed one has left is removed.

    Raises:
        ImplicitPRMError: the folder exists and `replace_old` is false, or it cannot be written.
    """
    path = Path(path)
    with clear_os_errors(path):
        if path.exists() and not replace_old:
            raise ImplicitPRMError(f"{path} exists already; choose another folder or delete it")
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        unfinished = _unfinished(path)
        unfinished.mkdir()
        try:
            yield unfinished
            set_weight_permissions(unfinished, like=unfinished)
            shutil.rmtree(path, ignore_errors=True)
            unfinished.replace(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def set_weight_permissions(folder: Path, like: Path) -> None:
    """Let those read the weights in `folder` who can read `like`: safetensors allows it to their owner only."""
    mode = like.stat().st_mode & 0o666
    for file in folder.glob("*.safetensors"):
        with contextlib.suppress(PermissionError):  # some network file systems have no permissions to set
            file.chmod(mode)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class JsonLines:
    """A JSON-lines file that rows are appended to, and that stays valid if the process is killed at any time.

    An incomplete last line, which a killed process has left, is not read, and the first `append` removes it. Until then
    the file is not changed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._mended = False

    def entries(self, start: int = 0) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """The rows one by one, each with the place of its line and the size with a newline, in bytes.

        Args:
            start: place of the first line to read, as from an earlier call.

        Raises:
            ImplicitPRMError: the file cannot be read or does not hold JSON lines.
        """
        if not self.path.exists():
            return
        with clear_os_errors(self.path), self.path.open("rb") as stream:
            place = stream.seek(start)
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    if _is_incomplete(line):
                        return
                    line += b"\n"  # which some editors leave out
                where = f"line {number}" + (f" after byte {start}" if start else "")
                yield place, len(line), self._row(line, where)
                place += len(line)

    def rows(self) -> list[dict[str, Any]]:
        """Every row written so far; errors as for `entries`."""
        return [row for _, _, row in self.entries()]

    def _row(self, line: bytes, where: str) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
            raise ImplicitPRMError(
                f"{self.path}, {where}: not JSON ({error}); repair or delete the line, or choose another path"
            ) from None
        if not isinstance(row, dict):
            raise ImplicitPRMError(
                f"{self.path}, {where}: expected a JSON object, got {type(row).__name__}; choose another path"
            )
        return row

    def append(self, row: dict[str, Any]) -> None:
        """Append a row and sync it to disk. On failure (a full disk) the file is left unchanged."""
        self._mend()
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

    def _mend(self) -> None:
        """Make the file end with a whole row: once, before the first append."""
        if self._mended:
            return
        with clear_os_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as stream:
                last = _last_line(stream)
                if _is_incomplete(last):
                    stream.truncate(stream.tell() - len(last))
                elif last:
                    stream.write(b"\n")
        self._mended = True


def _last_line(stream: BinaryIO) -> bytes:
    """What follows the last newline. Leaves the position at the end."""
    if not stream.seek(0, os.SEEK_END):
        return b""
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content[content.rfind(b"\n") + 1 :]


def _is_incomplete(line: bytes) -> bool:
    """Is it the start of a row that a killed process could not finish?"""
    try:
        json.loads(line)
    except ValueError:
        return line.startswith(b"{")
    return False


@contextlib.contextmanager
def clear_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError, or what safetensors makes of one, into an ImplicitPRMError that names the path."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if DISK_FULL in str(error):
            raise ImplicitPRMError(
                f"{path}: the disk is full. Everything written before is intact; free some space and run the same "
                "command again to resume"
            ) from error
        raise ImplicitPRMError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
