"""A run that is resumed has the options that it began with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from implicit_prm.config import RLConfig
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.secrets import without_secrets

RUN_FILE = "run.json"

# Which responses to the dev problems an evaluation samples.
_OF_DEV_SET = ("dev_split", "dev_limit", "grpo.num_generations_eval")
# How long a run is, what it saves, evaluates and logs, and how its work is cut up. The rest decides what it learns.
_MAY_CHANGE = (
    *(*_OF_DEV_SET, "output_dir", "overwrite", "grading.workers", "grading.cache"),
    *("grpo.resume_from_checkpoint", "grpo.max_steps", "grpo.num_train_epochs", "grpo.report_to", "grpo.run_name"),
    *("grpo.disable_tqdm", "grpo.per_device_eval_batch_size", "grpo.prm_max_tokens"),
)
_MAY_CHANGE_GROUPS = ("save_", "eval_", "logging_", "log_", "hub_", "push_to_hub", "dataloader_")


def check_resumed_options(checkpoint: Path, config: RLConfig) -> None:
    """Compare the options with those in `run.json` beside the checkpoint, if there is one.

    Args:
        checkpoint: the folder to resume from.
        config: the options of the resumed run.

    Raises:
        ImplicitPRMError: an option that decides what is learned has another value.
    """
    before, now = _before_and_now(checkpoint, config)
    if not before:
        return
    for name in (*before, *(name for name in now if name not in before)):
        if before.get(name) != now.get(name) and not _may_change(name):
            raise ImplicitPRMError(
                f"{name}={now.get(name)}: {checkpoint} is of a run with {name}={before.get(name)}; resume with that, "
                "or start a new run in another output_dir"
            )


def has_same_dev_set(checkpoint: Path, config: RLConfig) -> bool:
    """Whether the run that is resumed was evaluated on the same problems, as often; see `check_resumed_options`."""
    before, now = _before_and_now(checkpoint, config)
    return all(before.get(name) == now.get(name) for name in _OF_DEV_SET)


def _before_and_now(checkpoint: Path, config: RLConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options by their full names; none before if `run.json` is missing."""
    file = checkpoint.parent / RUN_FILE
    before = json.loads(file.read_text(encoding="utf-8"))["config"] if file.exists() else {}
    return dict(_leaves(before)), dict(_leaves(json.loads(json.dumps(without_secrets(asdict(config))))))


def _may_change(name: str) -> bool:
    return name in _MAY_CHANGE or name.removeprefix("grpo.").startswith(_MAY_CHANGE_GROUPS)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested options as pairs such as ("grpo.seed", 42)."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
