"""Options that name a language model, and options that say how text becomes its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from implicit_prm.config.validation import check_range
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.unicode import LONE_SURROGATE

StepRule = Literal["blank_line", "newline", "step_marker", "given"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
# LLM.int8() is left out: it picks outlier columns per batch, so a score would depend on the rest of the batch.
Quantization = Literal["4bit"]

# Log-ratios reach thousands of nats: far above this, rewards overflow float32.
MAX_BETA = 1e6


@dataclass
class LanguageModelConfig:
    """A language model and how to load it.

    Args:
        name: Hub id, local folder, or `sandbox` for the policy in the package.
        revision: Branch, tag or commit on the hub.
        dtype: Type of the weights; `auto` is the type they are stored in.
        attn_implementation: Attention of transformers; None lets transformers choose.
        trust_remote_code: Run Python code that comes with the model.
    """

    name: str
    revision: str | None = None
    dtype: Dtype = "float32"
    attn_implementation: str | None = None
    trust_remote_code: bool = False


@dataclass
class LoraConfig:
    """The adapter that training adds (`peft.LoraConfig`): rank, alpha, dropout, and the layers it is added to."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"

    def validate(self) -> None:
        check_range(self, "r", "alpha", at_least=1, where="model.lora.")
        check_range(self, "dropout", at_least=0, below=1, where="model.lora.")


@dataclass
class ModelConfig(LanguageModelConfig):
    """The policy to train, its reference, and beta.

    Args:
        beta: The reward is beta times the log-ratio. None takes the beta of the implicit PRM that training starts from.
        reference: `initial` (the starting weights), `start` (the starting model with its adapter), `checkpoint` (the
            reference of the implicit PRM that training starts from), `none` (no reference), or another model.
        reference_revision: Branch, tag or commit of a reference on the hub.
        lora: Adapter to train; None trains all weights.
        quantization: Quantization of the frozen weights below the adapter.
    """

    beta: float | None = 0.05
    reference: str = "initial"
    reference_revision: str | None = None
    lora: LoraConfig | None = None
    quantization: Quantization | None = None

    def validate(self) -> None:
        if self.beta is None and self.reference != "checkpoint":
            raise ImplicitPRMError(
                "model.beta=None: expected a number; null takes beta from the implicit PRM that training starts from, "
                "and needs model.reference=checkpoint"
            )
        check_range(self, "beta", above=0, at_most=MAX_BETA, where="model.")
        if self.quantization and self.lora is None:
            raise ImplicitPRMError(
                f"model.quantization={self.quantization}: quantized weights cannot be trained; add an adapter with "
                "model.lora={r:16,alpha:32}, or leave model.quantization out"
            )
        if self.reference_revision and self.reference in ("initial", "start", "checkpoint", "none"):
            raise ImplicitPRMError(
                f"model.reference_revision={self.reference_revision}: model.reference={self.reference} is not a model "
                "on the hub; name one in model.reference, or leave the revision out"
            )


@dataclass
class MergeConfig:
    """`ipr-merge`: the LoRA checkpoint to merge into its base, and the folder for the merged model."""

    checkpoint: str
    output_dir: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    trust_remote_code: bool = False


@dataclass
class TextConfig:
    """How a problem becomes a prompt and where a response is split into steps. Saved with the checkpoint.

    Args:
        steps: Where a step starts: after a blank line, at every line, at every line that begins with "Step 3:", or
            as given in the data's column `steps`.
        prompt_template: The user's turn, with {problem} for the problem's text. A `raw:` in front means plain text
            without the chat template.
        system_prompt: System message, or None.
        template_kwargs: Variables of the chat template, such as {"enable_thinking": False} for Qwen3, or None.
    """

    steps: StepRule = "blank_line"
    prompt_template: str = "{problem}"
    system_prompt: str | None = None
    template_kwargs: dict[str, Any] | None = None

    def validate(self, where: str = "") -> None:
        if self.template_kwargs and self.prompt_template.startswith("raw:"):
            raise ImplicitPRMError(
                f"{where}template_kwargs are variables of the chat template, which a raw: prompt_template does not "
                "use; leave one of them out"
            )
        for name in ("prompt_template", "system_prompt"):
            if LONE_SURROGATE.search(getattr(self, name) or ""):
                raise ImplicitPRMError(f"{where}{name}: half a surrogate pair, which is no character; correct the text")
        if "{problem}" not in self.prompt_template:
            raise ImplicitPRMError(f"{where}prompt_template must contain {{problem}}, the place of the problem's text")
