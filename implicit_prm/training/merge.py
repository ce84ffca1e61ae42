"""Merge a LoRA checkpoint of `ipr-train` into its base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from implicit_prm.config import MergeConfig, from_mapping
from implicit_prm.models import loading
from implicit_prm.models.checkpoint import ADAPTER_OFF, METADATA_FILE, CheckpointMetadata
from implicit_prm.models.source import ModelSource
from implicit_prm.training import model_card
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.io import atomic_folder
from implicit_prm.utils.lock import locked


def merge(config: MergeConfig, say: Callable[[str], None] = print) -> Path:
    """Merge a LoRA checkpoint of `ipr-train` into its base and write the full model, which scores the same.

    In float32 rewards agree with the adapter's up to rounding, about beta * 1e-4 per response. Half precision rounds
    the merged weights, and with them what a small learning rate changed.

    Args:
        config: the options of `ipr-merge`.
        say: prints a line.

    Returns:
        The output folder. Plain AutoModelForCausalLM opens it; its implicit_prm.json names the base as the reference.

    Raises:
        ImplicitPRMError: the checkpoint is not a LoRA adapter or has no implicit_prm.json; or the output folder exists.
    """
    config = from_mapping(MergeConfig, asdict(config))
    source = ModelSource.resolve(config.checkpoint, config.revision, trust_remote_code=config.trust_remote_code)
    metadata, output = source.metadata, Path(config.output_dir)
    if not isinstance(metadata, CheckpointMetadata):
        raise ImplicitPRMError(f"{source.name} has no {METADATA_FILE}; only checkpoints of ipr-train can be merged")
    if source.adapter is None:
        raise ImplicitPRMError(f"{source.name} is not a LoRA adapter but a full model; there is nothing to merge")
    with locked(output), atomic_folder(output) as unfinished:
        if metadata.quantization is not None:
            say(
                f"quantization: the adapter was trained on a base in {metadata.quantization}; it is merged into the "
                "base without quantization, so scores change by the rounding error"
            )
        policy = loading.open_model(source)
        policy.to(getattr(torch, config.dtype)).save_pretrained(unfinished)
        loading.open_tokenizer(source).save_pretrained(unfinished)
        merged = replace(metadata, base=None, base_revision=None, quantization=None)
        if metadata.reference == ADAPTER_OFF:
            merged = replace(merged, reference=source.adapter.base, reference_revision=source.adapter.base_revision)
        merged.write(unfinished)
        run = model_card.Run.read(source.folder)
        if run is not None:
            model_card.write(unfinished, merged, run, config.output_dir, merged=True)
    return output
