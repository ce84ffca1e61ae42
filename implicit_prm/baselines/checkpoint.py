"""What makes an explicit reward model's scores reproducible: baseline.json, beside the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from implicit_prm.config import BaselineKind, LabelUse, StepTokens, TextConfig, from_mapping
from implicit_prm.models.checkpoint import BASELINE_FILE, read_settings
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.io import write_json


@dataclass
class BaselineSettings:
    """Kind, text handling and provenance of a checkpoint.

    `labels` says what was learnt at each read position, `label_source` who made the step labels; None for outcomes.
    """

    kind: BaselineKind
    labels: LabelUse
    label_source: str | None = None
    tokens: StepTokens | None = None
    start: str | None = None  # what training started from, as it was named
    start_revision: str | None = None
    text: TextConfig = field(default_factory=TextConfig)
    template_hash: str | None = None
    data_fingerprint: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> BaselineSettings:
        """The settings of a checkpoint; raises ImplicitPRMError if they are not there, damaged, or of another kind."""
        path = folder / BASELINE_FILE
        return from_mapping(cls, read_settings(path), f"{path}: ")

    def write(self, folder: str | Path) -> None:
        write_json(Path(folder) / BASELINE_FILE, asdict(self))

    def check_same_run(self, checkpoint: str) -> None:
        """Refuse to go on with another kind, start, labels or other data than the checkpoint was trained with."""
        before, after = asdict(BaselineSettings.read(Path(checkpoint))), asdict(self)
        for name in before:
            if name != "versions" and before[name] != after[name]:
                raise ImplicitPRMError(
                    f"{checkpoint} was trained with {name}={before[name]}, now it is {after[name]}; resume as it was "
                    "started, or give another output_dir"
                )
