"""Options of `ipr-baseline` and `ipr-label`: explicit reward models, and the step labels to train them on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from implicit_prm.config.grading import GradingConfig
from implicit_prm.config.models import LanguageModelConfig, LoraConfig, StepRule, TextConfig
from implicit_prm.config.rollouts import PolicyConfig, SamplingConfig, ServerConfig
from implicit_prm.config.training import DataConfig, check_trainer
from implicit_prm.config.validation import check_range
from implicit_prm.types import ImplicitPRMError

BaselineKind = Literal["orm", "value_head", "next_token"]
LabelUse = Literal["outcome", "hard", "soft"]


@dataclass
class BackboneConfig(LanguageModelConfig):
    """The language model that an explicit reward model starts from.

    Args:
        lora: Adapter to train beside the value head; None trains all weights. It is merged into the model at the end.

    The other fields only exist because `ipr-train` and `ipr-baseline` share the YAML files of the group `model`. They
    must be None.
    """

    beta: float | None = None
    reference: str | None = None
    reference_revision: str | None = None
    lora: LoraConfig | None = None
    quantization: str | None = None

    def validate(self) -> None:
        for key in ("beta", "reference", "reference_revision"):
            if getattr(self, key) is not None:
                raise ImplicitPRMError(f"model.{key} is not used by an explicit reward model; leave it out")
        if self.quantization is not None:
            raise ImplicitPRMError("model.quantization: explicit reward models cannot be quantized; leave it out")


@dataclass
class StepTokens:
    """Tokens of a `next_token` model: `separator` follows each step, and predicts `good` or `bad`."""

    separator: str
    good: str
    bad: str

    def validate(self) -> None:
        if self.good == self.bad:
            raise ImplicitPRMError(f"tokens.good and tokens.bad are both {self.good!r}; choose two different tokens")


@dataclass
class BaselineConfig:
    """`ipr-baseline`: train an explicit reward model.

    Args:
        kind: `orm` (a value head, read at the last token), `value_head` (the same, read at the end of every step), or
            `next_token` (a causal LM that predicts a good or bad token after every step).
        model: The language model to start from.
        data: Graded responses, with step labels unless the labels are outcomes.
        output_dir: Folder for checkpoints, `baseline.json` and `log.jsonl`.
        labels: What to train on: the `outcome` of the response, step labels as 0 or 1 (`hard`), or step labels as
            probabilities (`soft`). None is `outcome` for `orm`, else `hard`.
        tokens: Tokens of `next_token`; None chooses unused entries of the vocabulary.
        trainer: Options of `transformers.TrainingArguments`.
        overwrite: Train from the start even if `output_dir` holds a model.
        max_tokens_per_batch: Tokens per forward pass, with padding; None for a default by device. Changes no result.
    """

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
        """`labels`, or the default of the kind."""
        return self.labels or ("outcome" if self.kind == "orm" else "hard")

    def validate(self) -> None:
        check_range(self, "max_tokens_per_batch", at_least=1)
        check_trainer(self.trainer, self.data)
        if self.kind == "orm" and self.targets != "outcome":
            raise ImplicitPRMError(
                f"labels={self.labels}: kind=orm trains on outcomes; leave labels out, or choose kind=value_head or "
                "kind=next_token"
            )
        if self.kind != "next_token" and self.tokens is not None:
            raise ImplicitPRMError(f"tokens is only used with kind=next_token, not kind={self.kind}; leave it out")
        if self.kind == "next_token" and self.model.lora is not None and self.tokens is None:
            raise ImplicitPRMError(
                "model.lora with kind=next_token: the unused tokens that are chosen by default have no trained "
                "embeddings, and an adapter does not train them; set tokens to words of the vocabulary"
            )


@dataclass(kw_only=True)
class LabelConfig:
    """`ipr-label`: add step labels to graded responses. The options that all methods share.

    Args:
        input: Graded responses: a local file or folder, or a dataset on the hub.
        split: Split of a folder or hub dataset.
        revision: Branch, tag or commit on the hub.
        max_prompts: Number of prompts to label, from the first; None for all.
        output: JSON lines file: the rows of `input` with the column `step_labels`.
    """

    input: str
    split: str = "train"
    revision: str | None = None
    max_prompts: int | None = None
    output: str

    def validate(self) -> None:
        check_range(self, "max_prompts", at_least=1)
        if not self.input:
            raise ImplicitPRMError("input is empty; name a file of graded responses (ipr-rollout writes one)")


@dataclass(kw_only=True)
class MathShepherdConfig(LabelConfig):
    """`ipr-label method=math_shepherd` (arXiv 2312.08935): label a step by how many completions from it are correct.

    Args:
        policy: The model that completes the prefixes.
        sampling: How it samples; `sampling.n` completions per prefix.
        steps: Where a step starts.
        prompt_template: Template for prompts that are bare problems.
        system_prompt: System message for prompts that are bare problems, or None.
        template_kwargs: Variables of the chat template, or None.
        problems_at_once: Number of problems whose prefixes are sorted by length and completed together.
        grading: How the completions' answers are found and compared.
    """

    policy: ServerConfig | PolicyConfig
    sampling: SamplingConfig
    steps: StepRule = TextConfig.steps
    prompt_template: str = TextConfig.prompt_template
    system_prompt: str | None = TextConfig.system_prompt
    template_kwargs: dict[str, Any] | None = TextConfig.template_kwargs
    problems_at_once: int = 50
    grading: GradingConfig = field(default_factory=GradingConfig)
    method: Literal["math_shepherd"] = "math_shepherd"

    @property
    def text(self) -> TextConfig:
        """How prompts are rendered and responses split into steps."""
        return TextConfig(self.steps, self.prompt_template, self.system_prompt, self.template_kwargs)

    def validate(self) -> None:
        super().validate()
        self.text.validate()
        check_range(self, "problems_at_once", at_least=1)
        if isinstance(self.policy, ServerConfig):
            raise ImplicitPRMError(
                "policy.base_url: ipr-label completes prefixes with a model in this process, not with a server; choose "
                "policy=hub"
            )
        if self.sampling.seed is None:
            raise ImplicitPRMError("sampling.seed=null is for servers that do not support seeds; set a number")


@dataclass(kw_only=True)
class AutoPSVConfig(LabelConfig):
    """`ipr-label method=autopsv` (arXiv 2405.16802): a step is wrong if a verifier's confidence drops there.

    Args:
        verifier: Checkpoint of `ipr-baseline kind=value_head labels=outcome`. Its step rule and prompts are used.
        verifier_revision: Branch, tag or commit on the hub.
        threshold: Relative change of confidence below which a step is wrong.
        dtype: Type of the verifier's weights.
        trust_remote_code: Run Python code that comes with the verifier.
        max_tokens_per_batch: Tokens per forward pass, with padding; None for a default by device.
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
        check_range(self, "max_tokens_per_batch", at_least=1)
        check_range(self, "threshold", above=-1, at_most=0)


@dataclass(kw_only=True)
class ExactConfig(LabelConfig):
    """`ipr-label method=exact`: true step labels, from the checker of the sandbox."""

    method: Literal["exact"] = "exact"
