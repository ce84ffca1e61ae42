"""Errors while a checkpoint is saved or loaded, as sentences that say what is left and how to resume."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from implicit_prm.training.resume import last_complete
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.io import DISK_FULL

# torch reports a file that it could not write to its end by these names of its C++ code.
_TORCH_WRITER = ("inline_container.cc", "PytorchStreamWriter")


@contextlib.contextmanager
def clear_save_errors(output_dir: str | Path, read_metadata: Callable[[Path], Any]) -> Iterator[None]:
    """Turn the errors of a full disk, for which safetensors and torch have their own, into an ImplicitPRMError.

    Args:
        output_dir: the run's output folder.
        read_metadata: reads a checkpoint's metadata, as for `resume.find_problem`.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise ImplicitPRMError(
            f"{output_dir}: cannot save the model: {reason}. {kept(output_dir, read_metadata)}. When that is mended, "
            "trainer.resume_from_checkpoint=true resumes the run"
        ) from error


def kept(output_dir: str | Path, read_metadata: Callable[[Path], Any]) -> str:
    """What a run that ends now leaves to resume from, as a sentence without its full stop."""
    last = last_complete(Path(output_dir), read_metadata)
    return f"The last complete checkpoint is {last}" if last else "No checkpoint is complete"


def _reason(error: Exception) -> str | None:
    """Why a file could not be written; None for other errors."""
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}" if error.strerror else None
    if isinstance(error, SafetensorError):
        return DISK_FULL if DISK_FULL in str(error) else str(error)
    if any(name in str(error) for name in _TORCH_WRITER):
        return f"a file could not be written to its end ({DISK_FULL}?)"
    return None


@contextlib.contextmanager
def clear_load_errors(checkpoint: str | Path, files: str) -> Iterator[None]:
    """Turn whatever torch raises for a damaged state into an ImplicitPRMError that names the checkpoint.

    Args:
        checkpoint: its folder.
        files: what is loaded from it.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, ImplicitPRMError):
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise ImplicitPRMError(
            f"{checkpoint}: cannot load {files} ({first}); the checkpoint is damaged. Delete its folder, and the same "
            "command resumes from the one before"
        ) from error
