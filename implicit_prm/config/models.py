"""Which language models to open, and how text becomes their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from implicit_prm.config.mapping import at_least
from implicit_prm.types import ImplicitPRMError

StepRule = Literal["blank_line", "newline", "step_marker", "given"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
# Not LLM.int8(): it sets outlier columns apart per batch, so a score would depend on what a response is batched with.
Quantization = Literal["4bit"]


@dataclass
class PolicyConfig:
    """Which language model to open, and how."""

    name: str
    revision: str | None = None
    dtype: Dtype = "float32"
    attn_implementation: str | None = None
    trust_remote_code: bool = False


@dataclass
class LoraConfig:
    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"

    def validate(self) -> None:
        at_least(self, 1, "r", "alpha", where="model.lora.")


@dataclass
class ModelConfig(PolicyConfig):
    """The model that becomes the reward: where it starts, what it is compared with, and beta.

    With `reference="checkpoint"` the start is an implicit PRM whose reward goes on: reference and beta are its own.
    """

    beta: float | None = 0.05
    reference: str = "initial"
    reference_revision: str | None = None
    lora: LoraConfig | None = None
    quantization: Quantization | None = None

    def validate(self) -> None:
        if self.beta is None and self.reference != "checkpoint":
            raise ImplicitPRMError(
                "model.beta=None: expected a number; null takes it from the implicit PRM that training starts from, "
                "and needs model.reference=checkpoint"
            )
        if self.beta is not None and not self.beta > 0:
            raise ImplicitPRMError(f"model.beta is {self.beta}; the reward is beta x log-ratio and needs beta above 0")
        if self.quantization and self.lora is None:
            raise ImplicitPRMError(
                f"model.quantization={self.quantization} rounds weights, which then cannot be trained; add an adapter "
                "with model.lora={r:16,alpha:32}, or leave model.quantization out"
            )
        if self.reference_revision and self.reference in ("initial", "start", "checkpoint", "none"):
            raise ImplicitPRMError(
                f"model.reference_revision={self.reference_revision} is set but model.reference={self.reference} names "
                "no second model; name one in model.reference, or drop the revision"
            )


@dataclass
class MergeConfig:
    """A LoRA checkpoint to merge into its base, and the folder for the model that comes of it."""

    checkpoint: str
    output_dir: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    trust_remote_code: bool = False


@dataclass
class TextConfig:
    """How a problem becomes a prompt and a response becomes steps; travels with the checkpoint."""

    steps: StepRule = "blank_line"
    prompt_template: str = "{problem}"
    system_prompt: str | None = None

    def validate(self) -> None:
        if "{problem}" not in self.prompt_template:
            raise ImplicitPRMError("prompt_template must contain {problem}, where the problem's text goes")
