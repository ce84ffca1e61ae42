"""Options of `ipr-eval`: the scorer, which all tasks share, and the options of each task."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Literal, get_args

from implicit_prm.config.checkpoint import CheckpointConfig
from implicit_prm.config.grading import GradingConfig
from implicit_prm.config.models import StepRule
from implicit_prm.config.rollouts import RolloutConfig
from implicit_prm.config.validation import check_range
from implicit_prm.types import ImplicitPRMError

Aggregate = Literal["min", "max", "last", "mean", "sum", "product"]
Over = Literal["step", "step_mean", "prefix"]
RewriteName = Literal[
    "rename_variables",
    "add_thousands_separators",
    "remove_thousands_separators",
    "add_decimals",
    "add_step_headers",
    "remove_step_headers",
    "add_blank_lines",
    "remove_blank_lines",
    "swap_operands",
]
CROSS_FIT: Final = "cross_fit"


@dataclass(kw_only=True)
class ScorerConfig(CheckpointConfig):
    """Where step scores come from, how they are read, and where results go. Shared by all tasks.

    Args:
        output_dir: Folder for the results; None is a folder inside the checkpoint.
        scores_column: Column of the data with step scores, instead of a checkpoint.
        scores_kind: What the numbers in that column are.
        over: Value of a step: its reward (`step`), the mean reward of its tokens (`step_mean`), or the sum of the
            rewards up to its end (`prefix`).
        max_problems: Number of problems to use; None for all.
        seed: Seed of all random draws.
    """

    subfolder: ClassVar[str]  # of the checkpoint, for the results of the task

    output_dir: str | None = None
    scores_column: str | None = None
    scores_kind: Literal["probability", "log_ratio"] = "probability"
    over: Over = "step"
    max_problems: int | None = None
    seed: int = 0

    @property
    def folder(self) -> str:
        """Folder of the results: `output_dir`, or the task's folder inside the checkpoint."""
        return self.output_dir or f"{self.checkpoint}/{self.subfolder}"

    def validate(self) -> None:
        if self.scores_column is None and self.checkpoint is None:
            raise ImplicitPRMError(
                "nothing to score with: set checkpoint=FOLDER (of ipr-train or ipr-baseline), or scores_column=NAME to "
                "evaluate step scores that are in the data"
            )
        if self.scores_column is not None:
            self._check_scores_column()
        if self.output_dir is None and self.checkpoint is None:
            raise ImplicitPRMError("output_dir is empty; name a folder for the results")
        super().validate()
        check_range(self, "max_problems", at_least=1)
        check_range(self, "seed", at_least=0)

    def _check_scores_column(self) -> None:
        for key in (
            *("checkpoint", "revision", "reference", "beta", "steps", "prompt_template"),
            *("quantization", "max_length", "max_tokens_per_batch"),
        ):
            if getattr(self, key, None) is not None:
                raise ImplicitPRMError(f"{key} is not used with scores_column, which needs no model; set only one")
        if self.over == "prefix" and self.scores_kind == "probability":
            raise ImplicitPRMError("over=prefix is not defined for scores_kind=probability; set over=step")
        if self.over == "step_mean":
            raise ImplicitPRMError(
                "over=step_mean needs the tokens of each step, which scores_column lacks; set over=step"
            )


@dataclass(kw_only=True)
class RerankConfig(ScorerConfig):
    """Candidates, and how one of them is picked: the options that `best_of_n` and `shift` share.

    Args:
        rollout: How candidates are sampled if none are given.
        candidates: Grouped rows to rerank; None samples them.
        steps: Step rule; None as in training.
        aggregate: How step values become one score.
        max_responses: Number of responses per problem to use, drawn at random; None for all.
        too_long: What to do with a response longer than `max_length`: stop with an `error`, or give it the `lowest`
            score.
        unanswered: A response without a final answer is ranked by its score (`as_scored`) or below all others
            (`lowest`).
        grading: How answers are found and compared.
        bootstrap_resamples: Number of bootstrap resamples of problems for the intervals.
    """

    rollout: RolloutConfig | None = None
    candidates: str | None = None
    steps: StepRule | None = None
    aggregate: Aggregate = "min"
    max_responses: int | None = None
    too_long: Literal["error", "lowest"] = "error"
    unanswered: Literal["as_scored", "lowest"] = "as_scored"
    grading: GradingConfig = field(default_factory=GradingConfig)
    bootstrap_resamples: int = 10_000

    def validate(self) -> None:
        if self.candidates is None and self.rollout is None:
            raise ImplicitPRMError("no candidates: give candidates=FILE, or rollout to sample them")
        if self.rollout is not None and self.rollout.grading not in (GradingConfig(), self.grading):
            raise ImplicitPRMError("rollout.grading: answers are graded by the option grading; set that instead")
        if self.scores_column is not None and self.candidates is None:
            raise ImplicitPRMError("scores_column names a column of the candidates; set candidates=FILE too")
        super().validate()
        check_range(self, "bootstrap_resamples", "max_responses", at_least=1)


@dataclass(kw_only=True)
class BestOfNConfig(RerankConfig):
    """`ipr-eval task=best_of_n`: rerank N responses per problem.

    Args:
        against: Name -> folder of an earlier evaluation of the same candidates, to compare with.
        ties: Of equal scores, pick the `first`, or count each with an equal share (`shared`).
        vote_aggregate: Aggregate of the step rewards to weight votes by; None is the score that ranks.
        vote_scale: Factor of the score in a vote's weight, sigmoid(vote_scale * score).
        vote_draws: Number of random subsets per problem and N that votes are averaged over.
    """

    subfolder: ClassVar[str] = "eval"

    task: Literal["best_of_n"] = "best_of_n"
    against: dict[str, str] = field(default_factory=dict)
    ties: Literal["first", "shared"] = "first"
    vote_aggregate: Aggregate | None = None
    vote_scale: float = 1.0
    vote_draws: int = 1000

    @property
    def votes_over(self) -> tuple[Aggregate, str]:
        """Aggregate and kind of step value of a vote's weight."""
        return (self.aggregate, self.over) if self.vote_aggregate is None else (self.vote_aggregate, "step")

    def validate(self) -> None:
        super().validate()
        self._check_against()
        check_range(self, "vote_draws", at_least=1)
        check_range(self, "vote_scale", above=0)
        probabilities = self.scores_column is not None and self.scores_kind == "probability"
        if self.vote_scale != 1 and (probabilities or self.votes_over[0] == "product"):
            raise ImplicitPRMError(
                f"vote_scale={self.vote_scale} scales log-ratios; probabilities and products of them are weights "
                "already, so leave it out"
            )

    def _check_against(self) -> None:
        for name, folder in self.against.items():
            if not isinstance(folder, str) or not folder:
                raise ImplicitPRMError(f"against.{name}={folder!r}: expected the folder of an earlier evaluation")
            if name.startswith("PRM") or " - " in name:
                raise ImplicitPRMError(f"against.{name}: choose a name that does not begin with PRM and has no ' - '")


@dataclass(kw_only=True)
class ShiftConfig(RerankConfig):
    """`ipr-eval task=shift`: is the ranking stable under rewrites that keep the meaning?

    Args:
        rewrites: Which rewrites to apply, each by itself.
    """

    subfolder: ClassVar[str] = "shift"

    task: Literal["shift"] = "shift"
    rewrites: list[RewriteName] = field(default_factory=lambda: list(get_args(RewriteName)))

    def validate(self) -> None:
        if self.scores_column is not None:
            raise ImplicitPRMError(
                f"scores_column={self.scores_column}: a column has no scores of rewritten responses; set checkpoint, "
                "or call implicit_prm.evaluate_shift with a scorer"
            )
        if self.steps == "given":
            raise ImplicitPRMError("steps=given: rewritten responses have no given steps; choose another step rule")
        if not self.rewrites or len(set(self.rewrites)) < len(self.rewrites):
            raise ImplicitPRMError(f"rewrites={self.rewrites}: expected at least one, and none twice")
        super().validate()


@dataclass(kw_only=True)
class ProcessBenchConfig(ScorerConfig):
    """`ipr-eval task=processbench`: find the first wrong step (Zheng et al., arXiv 2412.06559).

    Args:
        subsets: Splits of `dataset`, or local files.
        dataset: Hub id or local copy of the dataset.
        dataset_revision: Branch, tag or commit of the dataset on the hub.
        threshold: How the threshold on step values is chosen: `cross_fit` over folds of each subset, by fitting it on
            the subset that is named here, or a fixed number.
        too_long: What to do with a solution longer than `max_length`: stop with an `error`, or count it as judged
            wrong.
        bootstrap_resamples: Number of bootstrap resamples of problems for the intervals.
    """

    subfolder: ClassVar[str] = "processbench"

    task: Literal["processbench"] = "processbench"
    subsets: list[str] = field(default_factory=lambda: ["gsm8k", "math", "olympiadbench", "omnimath"])
    dataset: str = "Qwen/ProcessBench"
    dataset_revision: str | None = None
    threshold: float | str = CROSS_FIT
    too_long: Literal["error", "wrong"] = "error"
    bootstrap_resamples: int = 2_000

    @property
    def sources(self) -> dict[str, str]:
        """Name of each subset -> its local file or split."""
        return {subset_name(source): source for source in self.subsets}

    def validate(self) -> None:
        super().validate()
        check_range(self, "bootstrap_resamples", at_least=1)
        names = [subset_name(source) for source in self.subsets]
        listed = ", ".join(names)
        if not names or not all(names):
            raise ImplicitPRMError(f"subsets={self.subsets}: expected at least one split or file, and no empty name")
        if len(set(names)) < len(names):
            raise ImplicitPRMError(f"subsets: two have the same name ({listed}); rename a file")
        if isinstance(self.threshold, float):
            if not math.isfinite(self.threshold):
                raise ImplicitPRMError(f"threshold is {self.threshold}; a fixed threshold must be finite")
        elif self.threshold != CROSS_FIT:
            if self.threshold not in names:
                raise ImplicitPRMError(
                    f"threshold={self.threshold}: choose {CROSS_FIT}, a number, or one of the subsets ({listed})"
                )
            if len(names) == 1:
                raise ImplicitPRMError(
                    f"threshold={self.threshold}: the threshold is fitted on that subset for all others, but there are "
                    f"none; add one to subsets, or set threshold={CROSS_FIT}"
                )


@dataclass(kw_only=True)
class StepBenchmarkConfig(ScorerConfig):
    """Benchmarks with a label for every step: the options that `prmbench` and `hard2verify` share.

    Args:
        dataset: Hub id of the dataset, or a local file or folder.
        split: Split of the dataset; a file has none.
        dataset_revision: Branch, tag or commit of the dataset on the hub.
        threshold: Steps with a lower value are judged wrong: `cross_fit` over folds of problems, or a fixed number.
        too_long: What to do with a solution longer than `max_length`: stop with an `error`, or count each of its steps
            as judged wrongly (`wrong`).
        bootstrap_resamples: Number of bootstrap resamples of problems for the intervals.
    """

    dataset: str
    split: str
    dataset_revision: str | None = None
    threshold: float | Literal["cross_fit"] = CROSS_FIT
    too_long: Literal["error", "wrong"] = "error"
    bootstrap_resamples: int = 1_000

    def validate(self) -> None:
        super().validate()
        check_range(self, "bootstrap_resamples", at_least=1)
        if isinstance(self.threshold, float) and not math.isfinite(self.threshold):
            raise ImplicitPRMError(f"threshold is {self.threshold}; a fixed threshold must be finite")


@dataclass(kw_only=True)
class PRMBenchConfig(StepBenchmarkConfig):
    """`ipr-eval task=prmbench`: find wrong steps of nine classes (Song et al., arXiv 2501.03124)."""

    subfolder: ClassVar[str] = "prmbench"

    task: Literal["prmbench"] = "prmbench"
    dataset: str = "hitsmy/PRMBench_Preview"
    split: str = "train"


@dataclass(kw_only=True)
class Hard2VerifyConfig(StepBenchmarkConfig):
    """`ipr-eval task=hard2verify`: verify the steps of proofs (Pandit et al., arXiv 2510.13744)."""

    subfolder: ClassVar[str] = "hard2verify"

    task: Literal["hard2verify"] = "hard2verify"
    dataset: str = "Salesforce/Hard2Verify"
    split: str = "test"


def is_file(source: str) -> bool:
    """Whether a ProcessBench subset is a local file rather than a split."""
    return bool(Path(source).suffix) or "/" in source or "\\" in source


def subset_name(source: str) -> str:
    """Name of a ProcessBench subset: that of the split, or of the file without its extensions."""
    return Path(Path(source).name.removesuffix(".gz")).stem
