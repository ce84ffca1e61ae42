"""Find the checkpoint that a run resumes from: the last complete one."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState, TrainingArguments

from implicit_prm.config import BaselineConfig, RLConfig, TrainConfig
from implicit_prm.data.training_set import REPORT_FILE
from implicit_prm.models.checkpoint import BASELINE_FILE, METADATA_FILE, CheckpointMetadata
from implicit_prm.models.source import find_damage
from implicit_prm.training.initial_model import START_FOLDER
from implicit_prm.types import ImplicitPRMError

_STATE = "trainer_state.json"  # written last: a checkpoint without it is incomplete


def find_checkpoint(
    config: TrainConfig | BaselineConfig | RLConfig,
    arguments: TrainingArguments,
    say: Callable[[str], None],
    read: Callable[[Path], Any] = CheckpointMetadata.read,
    option: str = "trainer.resume_from_checkpoint",
) -> str | None:
    """Find the checkpoint to resume from.

    With `trainer.resume_from_checkpoint=true` it is the last complete one. Later ones that are incomplete or damaged
    are skipped with a message, and written again by the run.

    Args:
        config: the run's options.
        arguments: the trainer's, for the order of processes.
        say: prints a line.
        read: reads a checkpoint's metadata, and raises ImplicitPRMError for another kind of checkpoint.
        option: name of the option, for messages.

    Returns:
        The checkpoint's folder; None to start from the beginning.

    Raises:
        ImplicitPRMError: a model in the folder would be overwritten, or the named checkpoint is damaged.
    """
    wanted = str(arguments.resume_from_checkpoint or "").lower()
    folder = Path(config.output_dir)
    _refuse_to_overwrite(config.model.name, folder)
    finished, found = _holds_model(folder), _by_step(folder)
    if wanted in ("true", "auto") and (found or not finished):
        with arguments.main_process_first(desc="finding the last complete checkpoint"):
            return _last_complete(found, arguments, say, read)
    if wanted not in ("", "true", "auto", "false", "none"):
        named = Path(str(arguments.resume_from_checkpoint))
        if not named.is_dir():
            raise ImplicitPRMError(f"{option}={named}: no such checkpoint")
        problem = find_problem(named, read)
        if problem:
            raise ImplicitPRMError(f"{option}={named}: {problem}; name an earlier one")
        return str(named)
    if config.overwrite:
        _clear(folder, arguments)
    elif finished or found:
        resume = f"resume with {option}=true, " if found else ""
        raise ImplicitPRMError(
            f"{config.output_dir} already holds {'a model' if finished else found[-1]}; set another "
            f"output_dir, {resume}or start over with overwrite=true"
        )
    return None


def _refuse_to_overwrite(model: str, folder: Path) -> None:
    """Refuse an output folder that the run would write over the model that it starts from."""
    written = [folder, folder / START_FOLDER, *_by_step(folder)]
    if Path(model).is_dir() and Path(model).resolve() in [path.resolve() for path in written]:
        raise ImplicitPRMError(f"output_dir={folder} would overwrite model.name={model}; set another output_dir")


def _holds_model(folder: Path) -> bool:
    """Whether the folder holds a finished model of this package, or any other model that no run of ours has begun."""
    ours = any((folder / name).exists() for name in (METADATA_FILE, BASELINE_FILE))
    others = any((folder / name).exists() for name in ("config.json", "adapter_config.json"))
    return ours or (others and not (folder / REPORT_FILE).exists())


def find_problem(checkpoint: Path, read: Callable[[Path], Any] = CheckpointMetadata.read) -> str | None:
    """Why a run cannot resume from this checkpoint, as a sentence; None if it can.

    Only the size and structure of the files are checked, so it takes seconds for a checkpoint of any size.

    Args:
        checkpoint: its folder.
        read: reads its metadata, as for `find_checkpoint`.
    """
    if not (checkpoint / _STATE).exists():
        return f"it is incomplete: {_STATE}, which is written last, is missing"
    try:
        TrainerState.load_from_json(str(checkpoint / _STATE))
        read(checkpoint)
    except ImplicitPRMError as error:
        return str(error)
    except (ValueError, TypeError, RecursionError):
        return f"{_STATE} is damaged"
    states = [path for path in checkpoint.iterdir() if path.suffix in (".pt", ".pth", ".bin") and path.is_file()]
    for path in sorted(states):
        if not zipfile.is_zipfile(path):  # torch.save writes zip files, whose table of contents is at the end
            return f"{path.name} is truncated ({path.stat().st_size:,} bytes)"
        if path.suffix == ".pt" and not _is_state(path):
            return f"{path.name} is damaged"
    # FSDP and DeepSpeed write folders: optimizer_0, pytorch_model_fsdp_0, global_step100.
    entries = [path.name for path in checkpoint.iterdir()]
    if not any(name.startswith(("optimizer", "global_step")) for name in entries):
        return "it has no optimiser state (trainer.save_only_model=true saves none)"
    if any(name.startswith("optimizer") for name in entries) and "scheduler.pt" not in entries:
        return "scheduler.pt is missing"  # transformers would then ignore the optimiser state too, without a message
    if not any("model" in name or name.startswith("global_step") for name in entries):
        return "it has no weights"
    return find_damage(checkpoint)


def _is_state(path: Path) -> bool:
    """Does the file hold the state of an optimiser or scheduler? Its tensors are mapped, not read."""
    try:
        return isinstance(torch.load(path, map_location="cpu", weights_only=True, mmap=True), dict)
    except Exception:  # torch raises many kinds
        return False


def last_complete(folder: Path, read: Callable[[Path], Any] = CheckpointMetadata.read) -> Path | None:
    """The last checkpoint in a run's output folder that it can resume from; None if there is none."""
    return next((path for path in reversed(_by_step(folder)) if find_problem(path, read) is None), None)


def _by_step(folder: Path) -> list[Path]:
    folders = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit() and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name[11:]))


def _last_complete(
    found: list[Path], arguments: TrainingArguments, say: Callable[[str], None], read: Callable[[Path], Any]
) -> str | None:
    for path in reversed(found):
        problem = find_problem(path, read)
        if problem is None:
            say(f"resuming from {path}")
            return str(path)
        say(f"skipping {path}: {problem}")
        if arguments.process_index == 0:
            # Renamed, so that it does not count in save_total_limit, for which a complete one would be deleted.
            if not (path / _STATE).exists():
                shutil.rmtree(path)
            else:
                aside = path.with_name(f"damaged-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
    if found:
        say("no complete checkpoint: starting from the beginning")
    return None


def _clear(folder: Path, arguments: TrainingArguments) -> None:
    """Delete the old run's models, so that none is mistaken for one of this run."""
    with arguments.main_process_first(desc="clearing old checkpoints"):
        for old in (*folder.glob("checkpoint-*"), folder / START_FOLDER):
            shutil.rmtree(old, ignore_errors=True)
        named = ("adapter_config.json", METADATA_FILE, BASELINE_FILE, "README.md", "run.json")
        described = (folder / name for name in named)
        for file in (*folder.glob("*.safetensors*"), *described):
            file.unlink(missing_ok=True)
