"""Which checkpoint a run goes on from: the last one that is whole, and only of the same run."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from implicit_prm.config import BaselineConfig, TrainConfig
from implicit_prm.models.checkpoint import BASELINE_FILE, METADATA_FILE, CheckpointMetadata
from implicit_prm.models.source import find_damage
from implicit_prm.training.initial_model import START_FOLDER
from implicit_prm.types import ImplicitPRMError

_STATE = "trainer_state.json"  # written last, so what lacks it was not saved whole


def to_resume(
    config: TrainConfig | BaselineConfig,
    arguments: TrainingArguments,
    say: Callable[[str], None],
    read: Callable[[Path], Any] = CheckpointMetadata.read,
) -> str | None:
    """The checkpoint to go on from, None to start from the beginning.

    With `trainer.resume_from_checkpoint=true` it is the last whole one. Later ones, whose save was cut off or whose
    files are damaged, are passed over and named: the run writes them again.

    Args:
        read: reads a checkpoint's metadata, and raises ImplicitPRMError where they are not of this kind of run.

    Raises:
        ImplicitPRMError: a model in the folder would be overwritten, or the checkpoint that is named is damaged.
    """
    wanted = str(arguments.resume_from_checkpoint or "").lower()
    folder = Path(config.output_dir)
    finished, found = any((folder / name).exists() for name in (METADATA_FILE, BASELINE_FILE)), _by_step(folder)
    if wanted in ("true", "auto") and (found or not finished):
        with arguments.main_process_first(desc="looking for the last whole checkpoint"):
            return _last_whole(found, arguments, say, read)
    if wanted not in ("", "true", "auto", "false", "none"):
        named = Path(str(arguments.resume_from_checkpoint))
        if not named.is_dir():
            raise ImplicitPRMError(f"trainer.resume_from_checkpoint={named}: no such checkpoint")
        wrong = flaw(named, read)
        if wrong:
            raise ImplicitPRMError(f"trainer.resume_from_checkpoint={named}: {wrong}; name an earlier one")
        return str(named)
    if config.overwrite:
        _clear(folder, arguments)
    elif finished or found:
        go_on = "go on with trainer.resume_from_checkpoint=true, " if found else ""
        raise ImplicitPRMError(
            f"{config.output_dir} already holds {'a trained model' if finished else found[-1]}; give another "
            f"output_dir, {go_on}or start over with overwrite=true"
        )
    return None


def flaw(checkpoint: Path, read: Callable[[Path], Any] = CheckpointMetadata.read) -> str | None:
    """Why a run cannot go on from this checkpoint, as a sentence; None if it is whole.

    Sizes and structure of all files are looked at, not their content: seconds for a checkpoint of any size.
    """
    if not (checkpoint / _STATE).exists():
        return f"its save was cut off ({_STATE}, written last, is missing)"
    try:
        json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        read(checkpoint)
    except (ValueError, ImplicitPRMError) as error:
        return str(error) if isinstance(error, ImplicitPRMError) else f"{_STATE} is damaged"
    states = [path for path in checkpoint.iterdir() if path.suffix in (".pt", ".pth", ".bin") and path.is_file()]
    for path in sorted(states):
        if not zipfile.is_zipfile(path):  # what torch.save writes; its table of contents is at the very end
            return f"{path.name} is cut off ({path.stat().st_size:,} bytes)"
    # Sharded and DeepSpeed states are folders: optimizer_0, pytorch_model_fsdp_0, global_step100.
    entries = [path.name for path in checkpoint.iterdir()]
    if not any(name.startswith(("optimizer", "global_step")) for name in entries):
        return "it has no optimizer state (was it saved with trainer.save_only_model=true?)"
    if any(name.startswith("optimizer") for name in entries) and "scheduler.pt" not in entries:
        return "scheduler.pt is missing"  # the trainer would then take no optimizer state either, and say nothing
    if not any("model" in name or name.startswith("global_step") for name in entries):
        return "it has no weights"
    return find_damage(checkpoint)


def _by_step(folder: Path) -> list[Path]:
    folders = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit() and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name[11:]))


def _last_whole(
    found: list[Path], arguments: TrainingArguments, say: Callable[[str], None], read: Callable[[Path], Any]
) -> str | None:
    for path in reversed(found):
        wrong = flaw(path, read)
        if wrong is None:
            say(f"going on from {path}")
            return str(path)
        say(f"passed over {path}: {wrong}")
        if arguments.process_index == 0:
            # Out of the way of rotation, which would count it in save_total_limit and delete a whole one for it.
            if not (path / _STATE).exists():
                shutil.rmtree(path)
            else:
                aside = path.with_name(f"damaged-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
    if found:
        say("no whole checkpoint: starting from the beginning")
    return None


def _clear(folder: Path, arguments: TrainingArguments) -> None:
    """Forget the old run's weights, which a later resume or reader would otherwise take for this run's."""
    with arguments.main_process_first(desc="clearing old checkpoints"):
        for old in (*folder.glob("checkpoint-*"), folder / START_FOLDER):
            shutil.rmtree(old, ignore_errors=True)
        named = ("adapter_config.json", METADATA_FILE, BASELINE_FILE, "README.md", "run.json")
        described = (folder / name for name in named)
        for file in (*folder.glob("*.safetensors*"), *described):
            file.unlink(missing_ok=True)
