"""What makes a checkpoint's scores reproducible: implicit_prm.json, beside the weights."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from implicit_prm.config import TextConfig, from_mapping
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.io import write_json

SETTINGS_FILE = "implicit_prm.json"
BASELINE_FILE = "baseline.json"  # the same of an explicit reward model, `baselines.settings`
ADAPTER_OFF = "adapter_off"  # the reference is the policy with its LoRA adapter switched off
NONE = "none"  # no reference: the score is beta x log pi_theta


@dataclass
class Settings:
    """Beta, reference, text handling and provenance of a checkpoint."""

    beta: float
    reference: str
    reference_revision: str | None = None
    base: str | None = None  # what a LoRA adapter sits on
    base_revision: str | None = None
    quantization: str | None = None  # of that base, while the adapter was trained
    lora: dict[str, Any] | None = None
    start: str | None = None  # what training started from, as it was named
    start_revision: str | None = None
    text: TextConfig = field(default_factory=TextConfig)
    max_length: int | None = None  # of what it was trained on, in tokens; scores are bound by the model's context alone
    template_hash: str | None = None
    loss: dict[str, Any] = field(default_factory=dict)
    data_fingerprint: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """The settings of a checkpoint; raises ImplicitPRMError if they are not there, damaged, or of another kind."""
        path = folder / SETTINGS_FILE
        values = read_settings(path)
        if isinstance(values.get("text"), dict) and "max_length" in values["text"]:  # where 0.1 kept it
            values["max_length"] = values["text"].pop("max_length")
        settings = from_mapping(cls, values, f"{path}: ")
        for key in ("reference", "base"):
            name = getattr(settings, key)
            if name is not None and name.startswith(("./", "../")):
                setattr(settings, key, os.path.normpath(folder.absolute() / name))
        return settings

    def write(self, folder: str | Path) -> None:
        write_json(Path(folder) / SETTINGS_FILE, self.saved_in(Path(folder)))

    def saved_in(self, folder: Path) -> dict[str, Any]:
        """The settings as plain values. Models inside the run's folder are named from `folder`: both can move."""
        folder = folder.resolve()
        home = folder.parent if folder.name.startswith("checkpoint-") else folder
        values = asdict(self)
        for key in ("reference", "base"):
            name = values[key]
            if name is not None and Path(name).is_absolute() and Path(name).is_relative_to(home):
                relative = os.path.relpath(name, folder)
                values[key] = relative if relative.startswith("..") else f"./{relative}"
        return values


def read_settings(path: Path) -> dict[str, Any]:
    """What a checkpoint's settings file holds; raises ImplicitPRMError if it is not there or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ImplicitPRMError(f"{path}: {error.strerror}; not a checkpoint of ipr-train") from None
    except ValueError as error:  # no JSON, or no text at all
        raise ImplicitPRMError(f"{path}: not JSON ({error}); the checkpoint is damaged") from None
    if not isinstance(values, dict):
        raise ImplicitPRMError(f"{path}: holds a {type(values).__name__}, not settings; the checkpoint is damaged")
    return values
