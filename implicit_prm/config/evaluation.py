"""Options of `ipr-eval`: what scores, which every task shares, and then each task's own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from implicit_prm.config.mapping import at_least
from implicit_prm.config.models import Dtype, Quantization, StepRule
from implicit_prm.config.rollouts import RolloutConfig
from implicit_prm.types import ImplicitPRMError

Aggregate = Literal["min", "max", "last", "mean", "sum", "product"]
CROSS_FIT = "cross_fit"


@dataclass(kw_only=True)
class ScorerConfig:
    """What gives the step scores, how they are read, and where results go: the same for every task."""

    output_dir: str | None = None
    checkpoint: str | None = None
    scores_column: str | None = None
    scores_kind: Literal["probability", "log_ratio"] = "probability"
    reference: str | None = None
    beta: float | None = None
    revision: str | None = None
    dtype: Dtype = "float32"
    quantization: Quantization | Literal["none"] | None = None
    trust_remote_code: bool = False
    prompt_template: str | None = None
    over: Literal["step", "step_mean", "prefix"] = "step"
    max_length: int | None = None
    max_tokens_per_batch: int | None = None
    reference_cache: str | None = "default"
    max_problems: int | None = None
    seed: int = 0

    def validate(self) -> None:
        if self.scores_column is None and self.checkpoint is None:
            raise ImplicitPRMError(
                "nothing to score with: give checkpoint=FOLDER (what ipr-train wrote), or scores_column=NAME to "
                "evaluate step scores that are already in the data"
            )
        if self.scores_column is not None:
            for key in (
                *("checkpoint", "revision", "reference", "beta", "steps", "prompt_template"),
                *("quantization", "max_length", "max_tokens_per_batch"),
            ):
                if getattr(self, key, None) is not None:
                    raise ImplicitPRMError(
                        f"{key} is not used when scores come from the file; drop it or scores_column"
                    )
            if self.over == "prefix" and self.scores_kind == "probability":
                raise ImplicitPRMError("scores that are probabilities have no prefix values; set over=step")
            if self.over == "step_mean":
                raise ImplicitPRMError("a column of scores says nothing of the steps' tokens; set over=step")
        if self.output_dir is None and self.checkpoint is None:
            raise ImplicitPRMError("output_dir is empty; name the folder for metrics.json, the scores and the figure")
        if self.beta is not None and not self.beta > 0:
            raise ImplicitPRMError(f"beta is {self.beta}; it must be above 0, or the ranking is reversed")
        at_least(self, 1, "max_length", "max_tokens_per_batch", "max_problems")


@dataclass(kw_only=True)
class BestOfNConfig(ScorerConfig):
    """`ipr-eval task=best_of_n`, the default: rerank candidates."""

    rollout: RolloutConfig | None = None
    task: Literal["best_of_n"] = "best_of_n"
    candidates: str | None = None
    steps: StepRule | None = None
    aggregate: Aggregate = "min"
    max_responses: int | None = None
    too_long: Literal["error", "lowest"] = "error"
    unanswered: Literal["as_scored", "lowest"] = "as_scored"
    ties: Literal["first", "shared"] = "first"
    vote_aggregate: Aggregate | None = None
    vote_scale: float = 1.0
    vote_draws: int = 1000
    bootstrap_resamples: int = 10_000

    @property
    def folder(self) -> str:
        """Where the results go: `output_dir`, or the folder eval inside the checkpoint."""
        return self.output_dir or f"{self.checkpoint}/eval"

    @property
    def votes_over(self) -> tuple[Aggregate, str]:
        """Aggregate and step values that a vote is weighted by: those that rank, or an aggregate of step rewards."""
        return (self.aggregate, self.over) if self.vote_aggregate is None else (self.vote_aggregate, "step")

    def validate(self) -> None:
        if self.candidates is None and self.rollout is None:
            raise ImplicitPRMError("no candidates: give candidates=FILE, or rollout to sample them")
        if self.scores_column is not None and self.candidates is None:
            raise ImplicitPRMError("scores_column names a column of a file; give candidates=FILE too")
        super().validate()
        at_least(self, 1, "vote_draws", "bootstrap_resamples", "max_responses")
        if not 0 < self.vote_scale < math.inf:
            raise ImplicitPRMError(f"vote_scale is {self.vote_scale}; it must be above 0 and finite")
        probabilities = self.scores_column is not None and self.scores_kind == "probability"
        if self.vote_scale != 1 and (probabilities or self.votes_over[0] == "product"):
            raise ImplicitPRMError(
                f"vote_scale={self.vote_scale} is for the sigmoid of a log-ratio; probabilities and products of them "
                "are weights as they are, so drop it"
            )


@dataclass(kw_only=True)
class ProcessBenchConfig(ScorerConfig):
    """`ipr-eval task=processbench`: find the first wrong step (Zheng et al., arXiv 2412.06559)."""

    task: Literal["processbench"] = "processbench"
    subsets: list[str] = field(default_factory=lambda: ["gsm8k", "math", "olympiadbench", "omnimath"])
    dataset: str = "Qwen/ProcessBench"
    dataset_revision: str | None = None
    threshold: float | str = CROSS_FIT
    too_long: Literal["error", "wrong"] = "error"
    bootstrap_resamples: int = 2_000

    @property
    def folder(self) -> str:
        """Where the results go: `output_dir`, or the folder processbench inside the checkpoint."""
        return self.output_dir or f"{self.checkpoint}/processbench"

    @property
    def sources(self) -> dict[str, str]:
        """Subset's name -> the local file or the split of `dataset` that holds it."""
        return {subset_name(source): source for source in self.subsets}

    def validate(self) -> None:
        super().validate()
        at_least(self, 1, "bootstrap_resamples")
        names = [subset_name(source) for source in self.subsets]
        listed = ", ".join(names)
        if not names or not all(names):
            raise ImplicitPRMError(f"subsets={self.subsets}: name at least one split or file, and none without a name")
        if len(set(names)) < len(names):
            raise ImplicitPRMError(f"subsets: two are called the same ({listed}); a file is called by its own name")
        if isinstance(self.threshold, float):
            if not math.isfinite(self.threshold):
                raise ImplicitPRMError(f"threshold is {self.threshold}; a fixed threshold must be a finite number")
        elif self.threshold != CROSS_FIT:
            if self.threshold not in names:
                raise ImplicitPRMError(
                    f"threshold={self.threshold}: choose {CROSS_FIT}, a number, or one of the subsets ({listed})"
                )
            if len(names) == 1:
                raise ImplicitPRMError(
                    f"threshold={self.threshold} is fitted on that subset for the others, and there is no other; add "
                    f"one to subsets, or set threshold={CROSS_FIT}"
                )


def is_file(source: str) -> bool:
    """Is a ProcessBench subset given as a local file? Splits have neither an ending nor a folder."""
    return bool(Path(source).suffix) or "/" in source or "\\" in source


def subset_name(source: str) -> str:
    """A split's own name, or a file's without folder and endings: data/gsm8k.jsonl.gz is called gsm8k."""
    return Path(Path(source).name.removesuffix(".gz")).stem
