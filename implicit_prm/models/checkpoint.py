"""Checkpoint metadata: what makes a checkpoint's scores reproducible, saved as JSON beside the weights."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from implicit_prm.config import BaselineKind, LabelUse, StepTokens, TextConfig, from_mapping
from implicit_prm.config.models import MAX_BETA
from implicit_prm.config.validation import check_range
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.errors import error_context
from implicit_prm.utils.io import write_json

METADATA_FILE = "implicit_prm.json"
BASELINE_FILE = "baseline.json"
ADAPTER_OFF = "adapter_off"  # the reference is the policy with its LoRA adapter disabled
NONE = "none"  # no reference: the reward is beta * log pi_theta

Metadata = TypeVar("Metadata", bound="_Metadata")


@dataclass
class _Metadata:
    """Reading, writing and comparing, for both kinds of checkpoint."""

    file: ClassVar[str]
    model_fields: ClassVar[tuple[str, ...]] = ()  # fields that may name a model inside the run's output folder
    may_change: ClassVar[tuple[str, ...]] = ("versions",)  # fields in which a resumed run may differ

    @classmethod
    def read(cls: type[Metadata], folder: str | Path) -> Metadata:
        """Read the metadata of the checkpoint in `folder`.

        Raises:
            ImplicitPRMError: there is none, or it is damaged.
        """
        path = Path(folder) / cls.file
        values = cls._upgraded(_read_object(path))
        with error_context(str(path)):
            metadata = from_mapping(cls, values)
        for key in cls.model_fields:
            name = getattr(metadata, key)
            if name is not None and name.startswith(("./", "../")):
                setattr(metadata, key, os.path.normpath(path.parent.absolute() / name))
        return metadata

    @classmethod
    def _upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Values of an older version's file, as this version has them."""
        return values

    def write(self, folder: str | Path) -> None:
        """Write the metadata into `folder`."""
        write_json(Path(folder) / self.file, self.saved_in(Path(folder)))

    def saved_in(self, folder: Path) -> dict[str, Any]:
        """The values as JSON. A model inside the run's output folder gets a relative path, so that both can move."""
        folder = folder.resolve()
        output_dir = folder.parent if folder.name.startswith("checkpoint-") else folder
        values = asdict(self)
        for key in self.model_fields:
            name = values[key]
            if name is not None and Path(name).is_absolute() and Path(name).is_relative_to(output_dir):
                relative = os.path.relpath(name, folder)
                values[key] = relative if relative.startswith("..") else f"./{relative}"
        return values

    def check_same_run(self, checkpoint: str | Path, output_dir: str | Path) -> None:
        """Check that a run with this metadata, written to `output_dir`, may resume from `checkpoint`.

        Raises:
            ImplicitPRMError: the checkpoint was trained with other options or data.
        """
        checkpoint = Path(checkpoint)
        # Compared as they would be saved: a model inside the output folder then has the same name in every run.
        step = checkpoint.name if checkpoint.name.startswith("checkpoint-") else "checkpoint-0"
        before = type(self).read(checkpoint).saved_in(checkpoint)
        now = self.saved_in(Path(output_dir) / step)
        for name in (one.name for one in fields(self) if one.name not in self.may_change):
            if before[name] != now[name]:
                raise ImplicitPRMError(
                    f"{checkpoint} was trained with {name}={before[name]}, but this run has {name}={now[name]}; resume "
                    "with the same options, or set another output_dir"
                )


@dataclass
class CheckpointMetadata(_Metadata):
    """Metadata of an implicit PRM (implicit_prm.json): beta, reference, text handling and provenance.

    Args:
        beta: scale of the reward.
        reference: hub id or path of the reference model, `adapter_off` or `none`.
        reference_revision: its revision on the hub.
        base: the model below a LoRA adapter.
        base_revision: its revision on the hub.
        quantization: of that base during training.
        lora: the adapter's options.
        start: the model that training started from, as it was named.
        start_revision: its revision on the hub.
        text: how a problem becomes a prompt and a response becomes steps.
        max_length: longest prompt and response in training, in tokens. Scoring is limited by the model's context.
        template_hash: hash of what turns a problem into a prompt.
        loss: the loss and its options.
        data_fingerprint: hash of the training data.
        versions: versions of the packages that trained it.
    """

    file = METADATA_FILE
    model_fields = ("reference", "base")
    may_change = ("base", "base_revision", "template_hash", "versions")

    beta: float
    reference: str
    reference_revision: str | None = None
    base: str | None = None
    base_revision: str | None = None
    quantization: str | None = None
    lora: dict[str, Any] | None = None
    start: str | None = None
    start_revision: str | None = None
    text: TextConfig = field(default_factory=TextConfig)
    max_length: int | None = None
    template_hash: str | None = None
    loss: dict[str, Any] = field(default_factory=dict)
    data_fingerprint: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    def validate(self) -> None:
        check_range(self, "beta", above=0, at_most=MAX_BETA)
        check_range(self, "max_length", at_least=1)

    @classmethod
    def _upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        text, loss = values.get("text"), values.get("loss")
        if isinstance(text, dict) and "max_length" in text:  # version 0.1 kept it there
            values["max_length"] = text.pop("max_length")
        if isinstance(loss, dict) and loss.get("name") in ("kto", "ce", "prefix", "steps"):
            # Version 0.1 always drew whole prompts, which paired KTO still does without saying so.
            loss.setdefault("batch_unit", None if loss.get("form") == "paired" else "prompt")
        return values


@dataclass
class BaselineMetadata(_Metadata):
    """Metadata of an explicit reward model (baseline.json): kind, text handling and provenance.

    Args:
        kind: outcome reward model, value head, or next token.
        labels: what was learned at each position that is read.
        label_source: who made the step labels; None for outcomes.
        tokens: separator and verdicts of a next-token model.
        start: the model that training started from, as it was named.
        start_revision: its revision on the hub.
        lora: options of the adapter that was merged; None if all weights were trained.
        text: how a problem becomes a prompt and a response becomes steps.
        template_hash: hash of what turns a problem into a prompt.
        data_fingerprint: hash of the training data.
        versions: versions of the packages that trained it.
    """

    file = BASELINE_FILE

    kind: BaselineKind
    labels: LabelUse
    label_source: str | None = None
    tokens: StepTokens | None = None
    start: str | None = None
    start_revision: str | None = None
    lora: dict[str, Any] | None = None
    text: TextConfig = field(default_factory=TextConfig)
    template_hash: str | None = None
    data_fingerprint: str | None = None
    versions: dict[str, str] = field(default_factory=dict)


def read_metadata(folder: Path) -> CheckpointMetadata | BaselineMetadata | None:
    """The metadata in a model's folder; None where the model is no checkpoint of this package.

    Raises:
        ImplicitPRMError: it is damaged.
    """
    if (folder / BASELINE_FILE).exists():
        return BaselineMetadata.read(folder)
    return CheckpointMetadata.read(folder) if (folder / METADATA_FILE).exists() else None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ImplicitPRMError(
            f"{path}: {error.strerror}; the folder is not a checkpoint of ipr-train or ipr-baseline"
        ) from None
    except (ValueError, RecursionError) as error:  # neither JSON nor UTF-8, or nested too deeply
        raise ImplicitPRMError(f"{path}: not JSON ({error}); the checkpoint is damaged") from None
    if not isinstance(values, dict):
        raise ImplicitPRMError(
            f"{path}: expected a JSON object, got {type(values).__name__}; the checkpoint is damaged"
        )
    return values
