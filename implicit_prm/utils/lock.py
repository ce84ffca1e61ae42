"""A lock on an output for as long as a run writes it, so that two runs cannot mix their files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from implicit_prm.utils.distributed import is_first
from implicit_prm.utils.errors import ImplicitPRMError
from implicit_prm.utils.io import clear_os_errors, write_json

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextlib.contextmanager
def locked(output: str | Path | None, inside: bool = False) -> Iterator[None]:
    """Keep other runs from writing `output`.

    The operating system holds the lock and drops it when the process ends, however it ends: the files of a killed run
    do not stop the next one. On NFS the lock also holds between machines. Of processes that were launched together only
    the first one takes it.

    Args:
        output: a file, or a folder that must not exist; its lock is `.NAME.lock` beside it. None locks nothing.
        inside: `output` is a folder that several runs may add to; its lock is `.lock` in it.

    Raises:
        ImplicitPRMError: another run holds the lock; names its command, process and host. Or the lock's file cannot be
            written.
    """
    if output is None or not is_first():
        yield
        return
    output = Path(output)
    path = output / ".lock" if inside else output.with_name(f".{output.name}.lock")
    with clear_os_errors(path):
        created = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(path), path.with_name(f"{path.name}.json")
    _acquire(lock, output, holder)
    try:
        write_json(holder, _this_process())
        yield
    finally:
        for file in (holder, path):
            with contextlib.suppress(OSError):  # Windows does not delete an open file
                file.unlink()
        lock.release()
        if created:
            with contextlib.suppress(OSError):  # it is not empty: the run has written something
                path.parent.rmdir()


def _acquire(lock: FileLock, output: Path, holder: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ImplicitPRMError(
            f"{output} is being written by {_described(holder)}; wait until it has ended, or choose another output"
        ) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise ImplicitPRMError(f"{lock.lock_file}: {error.strerror or error}") from error
        warnings.warn(
            f"{output}: its file system has no locks ({error.strerror}); start no other run with this output",
            stacklevel=4,
        )


def _this_process() -> dict[str, str | int]:
    # Not the arguments, which may hold a token.
    return {
        "command": Path(sys.argv[0]).name,
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }


def _described(holder: Path) -> str:
    for _ in range(20):
        try:
            known = json.loads(holder.read_text(encoding="utf-8"))
            return f"{known['command']} (process {known['process']} on {known['host']}, since {known['since']})"
        except (OSError, ValueError, KeyError, TypeError):  # it has only just taken the lock
            time.sleep(0.1)
    return "another process"
