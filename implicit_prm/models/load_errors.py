"""What can be wrong with a model's files: found before they are read, or said in one sentence when reading fails."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from implicit_prm.types import ImplicitPRMError

_LFS = b"version https://git-lfs"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def damage(folder: Path) -> str | None:
    """The first thing wrong with the weights and tokenizer in a local folder, as a sentence; None if they are whole.

    Found are git-lfs pointers in place of files, shards that the index names and that are not there, and safetensors
    files that were cut off. Only headers are read, so it costs nothing.
    """
    for index in sorted(folder.glob("*.index.json")):
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{index.name} is damaged"
        missing = [name for name in shards if not (folder / name).exists()]
        if missing:
            return (
                f"{missing[0]} is missing ({len(shards) - len(missing)} of {len(shards)} files of weights are there): "
                "a download or copy that was not finished"
            )
    weights = [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.bin"))]
    for path in [*weights, *(folder / name for name in _TOKENIZER_FILES if (folder / name).exists())]:
        with path.open("rb") as stream:
            start = stream.read(len(_LFS))
        if start == _LFS:
            return f"{path.name} is a git-lfs pointer, not the file itself; fetch it with `git lfs pull`"
        if not start:
            return f"{path.name} is empty"
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="pt"):
                    pass
            except SafetensorError as error:
                return f"{path.name} is cut off or damaged ({error})"
    return None


@contextlib.contextmanager
def clear_load_errors(name: str, what: str = "model") -> Iterator[None]:
    """Turn whatever opening `name` (a model, an adapter, a tokenizer) raises into one sentence with the way out."""
    folder = Path(name)
    if not folder.is_dir() and (folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise ImplicitPRMError(f"cannot open the {what} {name!r}: no such folder")
    try:
        yield
    except ImplicitPRMError:
        raise
    except Exception as error:  # transformers, peft, tokenizers, safetensors and the hub raise many kinds
        found = (damage(folder) or _no_config(folder)) if folder.is_dir() else None
        if "ignore_mismatched_sizes" in str(error):
            found = "its weights have other sizes than its config.json says"
        first = found or str(error).strip().split("\n")[0].rstrip(".: ") or type(error).__name__
        hint = "" if folder.is_dir() else "; check its spelling and the network, or give a local folder instead"
        raise ImplicitPRMError(f"cannot open the {what} {name!r}: {first}{hint}") from error


def _no_config(folder: Path) -> str | None:
    if any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
        return None
    return "config.json is missing: not a model's folder, or a download that was not finished"
