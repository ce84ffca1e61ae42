"""Options that say how a checkpoint is opened to score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from implicit_prm.config.models import MAX_BETA, Dtype, Quantization
from implicit_prm.config.validation import check_range


@dataclass(kw_only=True)
class CheckpointConfig:
    """A checkpoint that scores, and how it is opened. Shared by all commands that score.

    Args:
        checkpoint: The model that scores: a folder or hub id.
        reference: Reference of the checkpoint; None is the one it was trained with, `none` uses no reference.
        beta: Beta of the checkpoint; None is the one it was trained with.
        revision: Branch, tag or commit of a checkpoint on the hub.
        dtype: Type of the weights of policy and reference.
        quantization: Quantization of the base below a LoRA adapter; None as in training, `none` for no quantization.
        trust_remote_code: Run Python code that comes with the checkpoint, or with a `reference` that is named here.
        prompt_template: The user's turn, with {problem} for the problem's text; None as in training.
        max_length: Maximum length of prompt + response in tokens; None for the model's context.
        max_tokens_per_batch: Tokens per forward pass, with padding; None for a default by device.
        reference_cache: Folder for the reference's log-probabilities; `default` is $IPR_CACHE, or
            ~/.cache/implicit_prm; None keeps none.
    """

    checkpoint: str | None = None
    reference: str | None = None
    beta: float | None = None
    revision: str | None = None
    dtype: Dtype = "float32"
    quantization: Quantization | Literal["none"] | None = None
    trust_remote_code: bool = False
    prompt_template: str | None = None
    max_length: int | None = None
    max_tokens_per_batch: int | None = None
    reference_cache: str | None = "default"

    def validate(self) -> None:
        check_range(self, "beta", above=0, at_most=MAX_BETA)
        check_range(self, "max_length", "max_tokens_per_batch", at_least=1)
