"""Options of `ipr-baseline` and `ipr-label`: explicit reward models, and the step labels they are trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from implicit_prm.config.mapping import at_least
from implicit_prm.config.models import PolicyConfig, StepRule, TextConfig
from implicit_prm.config.rollouts import SamplingConfig, ServerConfig
from implicit_prm.config.training import DataConfig
from implicit_prm.types import ImplicitPRMError

BaselineKind = Literal["orm", "value_head", "next_token"]
LabelUse = Literal["outcome", "hard", "soft"]


@dataclass
class BackboneConfig(PolicyConfig):
    """Where an explicit reward model starts. What only an implicit one has must be null, and is refused by name."""

    beta: float | None = None
    reference: str | None = None
    reference_revision: str | None = None
    lora: dict[str, Any] | None = None
    quantization: str | None = None

    def validate(self) -> None:
        for key in ("beta", "reference", "reference_revision"):
            if getattr(self, key) is not None:
                raise ImplicitPRMError(
                    f"model.{key}: an explicit reward model has no log-ratio, so nothing would read it; leave it out"
                )
        for key in ("lora", "quantization"):
            if getattr(self, key) is not None:
                raise ImplicitPRMError(f"model.{key}: explicit reward models train all of their weights; leave it out")


@dataclass
class StepTokens:
    """Entries of the vocabulary: what stands behind each step, and the two whose logits are compared there."""

    separator: str
    good: str
    bad: str

    def validate(self) -> None:
        if self.good == self.bad:
            raise ImplicitPRMError(f"tokens.good and tokens.bad are both {self.good!r}; their logits would be equal")


@dataclass
class BaselineConfig:
    """`ipr-baseline`: train an explicit reward model."""

    kind: BaselineKind
    model: BackboneConfig
    data: DataConfig
    output_dir: str
    labels: LabelUse | None = None
    tokens: StepTokens | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    overwrite: bool = False
    max_tokens_per_batch: int | None = None

    @property
    def targets(self) -> LabelUse:
        """What the model learns; by default the outcome for an outcome reward model, else hard step labels."""
        return self.labels or ("outcome" if self.kind == "orm" else "hard")

    def validate(self) -> None:
        at_least(self, 1, "max_tokens_per_batch")
        if self.kind == "orm" and self.targets != "outcome":
            raise ImplicitPRMError(
                f"labels={self.labels}: an outcome reward model is read once and learns the outcome; leave it out, or "
                "choose kind=value_head or kind=next_token"
            )
        if self.kind != "next_token" and self.tokens is not None:
            raise ImplicitPRMError(
                f"tokens: only kind=next_token reads any, and this is kind={self.kind}; leave it out"
            )
        if self.trainer.get("output_dir"):
            raise ImplicitPRMError("set output_dir at the top level, not trainer.output_dir")
        wants_eval = str(self.trainer.get("eval_strategy", "no")) != "no"
        if wants_eval and not (self.data.dev or self.data.hold_out_prompts):
            raise ImplicitPRMError(
                f"trainer.eval_strategy={self.trainer['eval_strategy']} needs a dev set; give data.dev=FILE or "
                "data.hold_out_prompts=50, or set trainer.eval_strategy=no"
            )


@dataclass(kw_only=True)
class LabelConfig:
    """What every way to label steps shares: graded responses in, the same with `step_labels` out."""

    input: str
    split: str = "train"
    revision: str | None = None
    max_prompts: int | None = None
    output: str

    def validate(self) -> None:
        at_least(self, 1, "max_prompts")
        if not self.input:
            raise ImplicitPRMError("input is empty; name a file of graded responses (ipr-rollout writes one)")


@dataclass(kw_only=True)
class MathShepherdConfig(LabelConfig):
    """`ipr-label method=math_shepherd` (arXiv 2312.08935): complete every prefix, count how often that ends well."""

    policy: ServerConfig | PolicyConfig
    sampling: SamplingConfig
    steps: StepRule = "blank_line"
    prompt_template: str = "{problem}"
    system_prompt: str | None = None
    problems_at_once: int = 16
    method: Literal["math_shepherd"] = "math_shepherd"

    @property
    def text(self) -> TextConfig:
        """How prompts are rendered and steps are found."""
        return TextConfig(steps=self.steps, prompt_template=self.prompt_template, system_prompt=self.system_prompt)

    def validate(self) -> None:
        super().validate()
        self.text.validate()
        at_least(self, 1, "problems_at_once")
        if isinstance(self.policy, ServerConfig):
            raise ImplicitPRMError(
                "policy.base_url: the protocol of servers has no way to go on with a response that is begun; take "
                "policy=hub, which samples in this process"
            )


@dataclass(kw_only=True)
class AutoPSVConfig(LabelConfig):
    """`ipr-label method=autopsv` (arXiv 2405.16802): a step is wrong where a verifier's confidence drops.

    Steps and prompts are those that the verifier was trained on.
    """

    verifier: str
    verifier_revision: str | None = None
    threshold: float = -0.5
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    trust_remote_code: bool = False
    max_tokens_per_batch: int | None = None
    method: Literal["autopsv"] = "autopsv"

    def validate(self) -> None:
        super().validate()
        at_least(self, 1, "max_tokens_per_batch")
        if not -1 < self.threshold <= 0:
            raise ImplicitPRMError(
                f"threshold is {self.threshold}; a confidence can lose between none (0) and all (-1) of itself, so it "
                "must be above -1 and at most 0"
            )


@dataclass(kw_only=True)
class ExactConfig(LabelConfig):
    """`ipr-label method=exact`: the sandbox's own checker, the most that step labels could give."""

    method: Literal["exact"] = "exact"
