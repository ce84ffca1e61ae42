"""Options of `ipr-eval`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from implicit_prm.config.mapping import at_least
from implicit_prm.config.models import Dtype, Quantization, StepRule
from implicit_prm.config.rollouts import RolloutConfig
from implicit_prm.records import ImplicitPRMError

Aggregate = Literal["min", "max", "last", "mean", "sum", "product"]


@dataclass
class EvalConfig:
    rollout: RolloutConfig
    output_dir: str | None = None
    checkpoint: str | None = None
    candidates: str | None = None
    scores_column: str | None = None
    scores_kind: Literal["probability", "log_ratio"] = "probability"
    reference: str | None = None
    beta: float | None = None
    revision: str | None = None
    dtype: Dtype = "float32"
    quantization: Quantization | Literal["none"] | None = None
    trust_remote_code: bool = False
    steps: StepRule | None = None
    prompt_template: str | None = None
    aggregate: Aggregate = "min"
    over: Literal["step", "prefix"] = "step"
    batch_size: int = 16
    max_problems: int | None = None
    max_responses: int | None = None
    too_long: Literal["error", "lowest"] = "error"
    unanswered: Literal["as_scored", "lowest"] = "as_scored"
    ties: Literal["first", "shared"] = "first"
    vote_draws: int = 1000
    bootstrap_resamples: int = 10_000
    seed: int = 0

    @property
    def folder(self) -> str:
        """Where the results go: `output_dir`, or the folder eval inside the checkpoint."""
        return self.output_dir or f"{self.checkpoint}/eval"

    def validate(self) -> None:
        if self.scores_column is None and self.checkpoint is None:
            raise ImplicitPRMError(
                "nothing to score with: give checkpoint=FOLDER (what ipr-train wrote), or scores_column=NAME to "
                "evaluate step scores that are already in the candidates"
            )
        if self.scores_column is not None:
            if self.candidates is None:
                raise ImplicitPRMError("scores_column names a column of a file; give candidates=FILE too")
            for key in ("checkpoint", "reference", "beta", "steps", "prompt_template"):
                if getattr(self, key) is not None:
                    raise ImplicitPRMError(
                        f"{key} is not used when scores come from the file; drop it or scores_column"
                    )
            if self.over == "prefix" and self.scores_kind == "probability":
                raise ImplicitPRMError("scores that are probabilities have no prefix values; set over=step")
        if self.output_dir is None and self.checkpoint is None:
            raise ImplicitPRMError(
                "output_dir is empty; name the folder for metrics.json, scores.parquet and the figure"
            )
        if self.beta is not None and not self.beta > 0:
            raise ImplicitPRMError(f"beta is {self.beta}; it must be above 0, or the ranking is reversed")
        at_least(self, 1, "batch_size", "vote_draws", "bootstrap_resamples", "max_problems", "max_responses")
