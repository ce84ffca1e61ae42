"""Options of `ipr-rl`: the policy, its problems, the PRM, and TRL's trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from implicit_prm.config.grading import GradingConfig
from implicit_prm.config.models import Dtype, LoraConfig, StepRule
from implicit_prm.config.rollouts import PolicyConfig, ProblemsConfig
from implicit_prm.config.validation import check_range
from implicit_prm.types import ImplicitPRMError


@dataclass
class ImplicitRewards:
    """Process rewards of an implicit PRM.

    Args:
        checkpoint: Folder or hub id of a checkpoint of `ipr-train`, or of a causal LM with a `reference` and a `beta`.
        reference: Hub id or path of the reference; None for the checkpoint's.
        beta: Scale of the reward; None for the checkpoint's.
        steps: Where a step ends; None for the checkpoint's rule.
        revision: Branch, tag or commit of `checkpoint` on the hub.
        dtype: Type of the weights.
    """

    checkpoint: str
    reference: str | None = None
    beta: float | None = None
    steps: StepRule | None = None
    revision: str | None = None
    dtype: Dtype = "float32"
    kind: Literal["implicit"] = "implicit"

    def validate(self) -> None:
        check_range(self, "beta", above=0, where="prm.")


@dataclass
class ExactRewards:
    """Exact process rewards, 1 for a right step and 0 for a wrong one, of problems whose steps can be checked."""

    kind: Literal["exact"] = "exact"


@dataclass
class NoRewards:
    """No process rewards: training on outcomes alone."""

    kind: Literal["none"] = "none"


@dataclass
class RLConfig:
    """`ipr-rl`: train a policy with process rewards.

    Args:
        policy: The policy to train.
        problems: Problems to train on.
        prm: Process rewards.
        output_dir: Folder for checkpoints, the policy and `log.jsonl`.
        lora: Adapter to train; None trains all weights.
        dev_split: Split of the same source to evaluate on; None for no evaluation.
        dev_limit: Number of problems of that split.
        grading: How answers are graded.
        grpo: Options of `PrimeConfig`, TRL's `GRPOConfig` and `transformers.TrainingArguments`.
        overwrite: Train from the start even if `output_dir` holds a model.
    """

    policy: PolicyConfig
    problems: ProblemsConfig
    prm: ImplicitRewards | ExactRewards | NoRewards
    output_dir: str
    lora: LoraConfig | None = None
    dev_split: str | None = None
    dev_limit: int | None = None
    grading: GradingConfig = field(default_factory=GradingConfig)
    grpo: dict[str, Any] = field(default_factory=dict)
    overwrite: bool = False

    @property
    def model(self) -> PolicyConfig:
        """The model that training starts from."""
        return self.policy

    def validate(self) -> None:
        check_range(self, "dev_limit", at_least=1)
        if self.grpo.get("output_dir"):
            raise ImplicitPRMError("set output_dir at the top level, not grpo.output_dir")
        if self.policy.dtype != "float32" and self.lora is None:
            raise ImplicitPRMError(
                f"policy.dtype={self.policy.dtype}: small updates are lost unless the trained weights are float32; set "
                "policy.dtype=float32 (grpo.bf16=true is for speed), or train an adapter with lora={r:16,alpha:32}"
            )
        strategy = self.grpo.get("eval_strategy", "no")
        if str(strategy) != "no" and self.dev_split is None:
            raise ImplicitPRMError(f"grpo.eval_strategy={strategy} needs problems to evaluate on; set dev_split")
        if self.prm.kind == "exact" and self.problems.name != "sandbox":
            raise ImplicitPRMError(
                f"prm=exact: the steps of problems.name={self.problems.name} cannot be checked; only the sandbox's can"
            )
