"""A LoRA checkpoint to a plain model: the adapter merged into its base, the base named as the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from implicit_prm.config import MergeConfig, PolicyConfig, from_mapping
from implicit_prm.models import loading, lora
from implicit_prm.models.checkpoint import ADAPTER_OFF, Settings
from implicit_prm.models.implicit_prm import open_policy, settings_file
from implicit_prm.training import model_card
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.io import atomic_folder


def merge(config: MergeConfig, say: Callable[[str], None] = print) -> Path:
    """Merge a LoRA checkpoint of `ipr-train` and write the model that scores the same, whole or not at all.

    In float32 rewards agree with the adapter's within float32 rounding, about beta * 1e-4 a response. Half precision
    rounds the merged weights, and with them what a small learning rate has changed.

    Returns:
        The folder, which opens with plain AutoModelForCausalLM; its implicit_prm.json names the base as the reference.

    Raises:
        ImplicitPRMError: the checkpoint is no adapter or has no settings; the output folder is there already.
    """
    config = from_mapping(MergeConfig, asdict(config))
    name, output = config.checkpoint, Path(config.output_dir)
    found = settings_file(name, config.revision, None)
    if found is None:
        raise ImplicitPRMError(f"{name} has no implicit_prm.json; only what ipr-train wrote can be merged")
    adapter = lora.find(loading.locate(name), config.revision)
    if adapter is None:
        raise ImplicitPRMError(f"{name} is not a LoRA adapter but a whole model; there is nothing to merge")
    with atomic_folder(output) as unfinished:
        settings = Settings.read(found.parent)
        if settings.quantization is not None:
            say(
                f"quantization: the adapter was trained on a base in {settings.quantization}; it is merged into the "
                "base as it is without rounding, so scores move by the rounding's share"
            )
        opened = PolicyConfig(name, config.revision, "float32", trust_remote_code=config.trust_remote_code)
        policy = open_policy(opened, replace(settings, quantization=None))
        if hasattr(policy, "merge_and_unload"):
            policy = lora.merge(policy)
        policy.to(getattr(torch, config.dtype)).save_pretrained(unfinished)
        loading.open_tokenizer(opened).save_pretrained(unfinished)
        base, revision = settings.base or adapter.base, settings.base_revision or adapter.base_revision
        merged = replace(settings, base=None, base_revision=None, quantization=None)
        if settings.reference == ADAPTER_OFF:
            merged = replace(merged, reference=base, reference_revision=revision)
        merged.write(unfinished)
        run = model_card.Run.read(found.parent)
        if run is not None:
            model_card.write(unfinished, merged, run, config.output_dir, merged=True)
    return output
