"""ModelSource: a model's name, resolved once to local files and to what they describe.

Everything that opens a part of a model takes a `ModelSource`, so that the hub is asked for each file at most once:

    source.py (resolve) -> loading.py (open) -> lora.py (adapters), checkpoint.py (metadata)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import tqdm
from safetensors import SafetensorError, safe_open

from implicit_prm.config import LanguageModelConfig
from implicit_prm.models.checkpoint import BaselineMetadata, CheckpointMetadata, read_metadata
from implicit_prm.models.lora import Adapter, read_adapter
from implicit_prm.sandbox import POLICY_PATH
from implicit_prm.types import ImplicitPRMError

# All that describes a model, which is small; its weights are downloaded when it is opened.
_DESCRIPTION = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py"]
_NESTED = ["*/*.json", "*/*.txt", "*/*.model"]  # checkpoints, evaluations, and models for other libraries
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class ModelSource:
    """Where a model's files are, and what kind of model they make.

    Args:
        name: hub id, path, or `sandbox` for the policy in the package, as it was given.
        folder: the local folder; for a hub id, its snapshot in the hub's cache.
        revision: branch, tag or commit on the hub, as it was given.
        commit: the commit that a hub id was resolved to; None for a local folder.
        adapter: the base of a LoRA adapter; None for a full model.
        metadata: what implicit_prm.json or baseline.json says; None for other models.
        token: access token for the hub.
        trust_remote_code: run Python code that comes with the model.
    """

    name: str
    folder: Path
    revision: str | None = None
    commit: str | None = None
    adapter: Adapter | None = None
    metadata: CheckpointMetadata | BaselineMetadata | None = None
    token: str | None = field(default=None, repr=False)
    trust_remote_code: bool = False

    @classmethod
    def resolve(
        cls,
        name: str | Path,
        revision: str | None = None,
        token: str | None = None,
        trust_remote_code: bool = False,
    ) -> ModelSource:
        """Find a model by hub id or path. Of a hub id, everything but the weights is downloaded.

        Raises:
            ImplicitPRMError: no such folder or repository, or a damaged adapter config or checkpoint metadata.
        """
        name = str(name)
        folder, commit = _local_folder(name), None
        if folder is None:
            options = {"allow_patterns": _DESCRIPTION, "ignore_patterns": _NESTED, "tqdm_class": _Silent}
            folder = _download(name, revision, token, **options)
            commit = folder.name
        metadata, adapter = read_metadata(folder), read_adapter(folder, name)
        if isinstance(metadata, CheckpointMetadata):
            if adapter is not None and metadata.base is not None:
                # A relative path in the metadata still holds where the checkpoint was moved with its base.
                adapter = Adapter(metadata.base, metadata.base_revision)
            for part in (metadata.base, metadata.reference) if commit is not None else ():
                if part is not None and Path(part).is_relative_to(folder.absolute()):
                    inside = Path(part).relative_to(folder.absolute())
                    _download(name, commit, token, allow_patterns=f"{inside}/*")
        return cls(name, folder, revision, commit, adapter, metadata, token, trust_remote_code)

    @classmethod
    def of(cls, config: LanguageModelConfig) -> ModelSource:
        """The model that a config names."""
        return cls.resolve(config.name, config.revision, trust_remote_code=config.trust_remote_code)

    @cached_property
    def base(self) -> ModelSource:
        """The model below the adapter."""
        assert self.adapter is not None
        return ModelSource.resolve(
            self.adapter.base, self.adapter.base_revision, self.token, trust_remote_code=self.trust_remote_code
        )

    @property
    def path(self) -> str:
        """What plain transformers and PEFT open the model by: the hub id, or the folder's absolute path."""
        return self.name if self.commit is not None else str(self.folder.resolve())

    @cached_property
    def identity(self) -> str:
        """Tells weights apart: the commit of a hub id, a hash of a folder's content; an adapter's includes its base's.

        Raises:
            ImplicitPRMError: the adapter's base cannot be found.
        """
        own = self.commit or weights_digest(self.folder)
        return own if self.adapter is None else f"{own} on {self.base.identity}"

    def weights(self) -> dict[str, Any]:
        """Which weights the name stands for now: a hub id's commit, or the sizes of a folder's files in bytes."""
        files = sorted(_weight_files(self.folder)) if self.commit is None else []
        return {"commit": self.commit, "weight_bytes": {path.name: path.stat().st_size for path in files}}

    def download_weights(self) -> None:
        """Download the weights of a hub id, safetensors where there are any.

        Raises:
            ImplicitPRMError: the hub cannot be reached, or has no weights for this model.
        """
        if self.commit is None:
            return
        candidates = _WEIGHTS if self.adapter is None else _ADAPTER_WEIGHTS
        for file in candidates:
            index = self.folder / f"{file}.index.json"
            try:
                if index.exists():
                    _download(self.name, self.commit, self.token, allow_patterns=shards(index))
                else:
                    hf_hub_download(self.name, file, revision=self.commit, token=self.token)
                return
            except EntryNotFoundError as error:
                missing = error
        raise _unreachable(self.name, missing) from missing


def weights_digest(folder: str | Path) -> str:
    """SHA-256 of the configuration and weights in a folder."""
    digest = hashlib.sha256()
    described = [path for name in ("config.json", "adapter_config.json") if (path := Path(folder, name)).exists()]
    for path in sorted([*_weight_files(Path(folder)), *described]):
        digest.update(path.name.encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def find_damage(folder: Path) -> str | None:
    """The first problem with the weights and tokenizer in a folder, as a sentence; None if they are whole.

    Finds git-lfs pointers, shards that the index names but are missing, and truncated safetensors files. Only headers
    are read, so it takes no time.
    """
    for index in sorted(folder.glob("*.index.json")):
        try:
            names = shards(index)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return f"{index.name} is damaged"
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            return (
                f"{missing[0]} is missing ({len(names) - len(missing)} of {len(names)} weight files are there): an "
                "incomplete download or copy"
            )
    tokenizer = [folder / name for name in _TOKENIZER_FILES if (folder / name).exists()]
    for path in [*sorted(_weight_files(folder)), *tokenizer]:
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
                return f"{path.name} is truncated or damaged ({error})"
    return None


def shards(index: Path) -> list[str]:
    """The weight files that an index names."""
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _weight_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")]


def _local_folder(name: str) -> Path | None:
    """The folder that a name stands for; None for a hub id."""
    folder = POLICY_PATH if name == "sandbox" else Path(name)
    try:
        if folder.is_dir():
            return folder
    except OSError as error:  # no permission, or a name that is too long
        raise ImplicitPRMError(f"cannot open the model {name[:200]!r}: {error.strerror}") from None
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ImplicitPRMError(f"cannot open the model {name!r}: no such folder")
    return None


def _download(name: str, revision: str | None, token: str | None, **options: Any) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, token=token, **options))
    except Exception as error:  # the hub's client raises many kinds
        raise _unreachable(name, error) from error


def _unreachable(name: str, error: Exception) -> ImplicitPRMError:
    if isinstance(error, GatedRepoError):
        reason = "the repository is gated; accept its terms on the hub, and log in with `hf auth login`"
    elif isinstance(error, RepositoryNotFoundError):
        reason = "no such repository on the hub, or a private one; check the name, log in with `hf auth login`"
    elif isinstance(error, RevisionNotFoundError):
        reason = "no such revision on the hub"
    else:
        first = str(error).strip().split("\n")[0].rstrip(".: ") or type(error).__name__
        reason = f"{first}; check the name and the network"
    return ImplicitPRMError(f"cannot open the model {name!r}: {reason}, or give a local folder instead")


class _Silent(tqdm):
    """No progress bar for small files."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})
