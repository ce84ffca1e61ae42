"""LoRA adapters: read their config, attach them to a base model, merge them into it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from implicit_prm.types import ImplicitPRMError


@dataclass(frozen=True)
class Adapter:
    """The base model of an adapter, as hub id or path, and its revision."""

    base: str
    base_revision: str | None = None


def read_adapter(folder: Path, name: str) -> Adapter | None:
    """The adapter in a folder; None where the folder holds none.

    Args:
        folder: the model's local files.
        name: what messages call the model.

    Raises:
        ImplicitPRMError: adapter_config.json is damaged, names no base, or is not for the weights of a causal LM.
    """
    if not (folder / "adapter_config.json").exists():
        return None
    from peft import PeftConfig  # slow to import

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # peft raises many kinds for a damaged file
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ImplicitPRMError(f"cannot open the adapter {name!r}: adapter_config.json: {reason}") from error
    if not config.base_model_name_or_path:
        raise ImplicitPRMError(
            f"cannot open the adapter {name!r}: its adapter_config.json names no base model; add "
            "base_model_name_or_path to it"
        )
    if config.is_prompt_learning or config.task_type not in (None, "CAUSAL_LM"):
        kind = config.peft_type if config.is_prompt_learning else config.task_type
        raise ImplicitPRMError(
            f"{name} is a {kind} adapter; expected an adapter of a causal LM's weights, such as LoRA"
        )
    return Adapter(config.base_model_name_or_path, config.revision)


def attach(base: Any, folder: Path) -> Any:
    """Load the adapter in `folder` onto `base`: a `PeftModel` in evaluation mode."""
    from peft import PeftModel

    with warnings.catch_warnings():
        # PEFT only warns of weights that the file lacks, and leaves them untrained.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        return PeftModel.from_pretrained(base, str(folder)).eval()


def merge(adapted: Any) -> Any:
    """Merge an adapter into its base, in place, and return the plain model.

    Raises:
        ImplicitPRMError: the merged weights are not finite.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    core = adapted.get_base_model()
    ends = core.get_input_embeddings(), core.get_output_embeddings()
    if core.config.tie_word_embeddings and any(isinstance(end, BaseTunerLayer) for end in ends):
        # Untie the two, so that an adapter on one does not change the other.
        head = getattr(ends[1], "base_layer", ends[1])
        head.weight = nn.Parameter(head.weight.detach().clone())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(Model with `tie_word|Input and output embeddings)")
        try:
            return adapted.merge_and_unload(safe_merge=True).eval()
        except ValueError as error:
            raise ImplicitPRMError(f"the adapter cannot be merged: {error}") from error


def has_plain_head(model: Any) -> bool:
    """Whether the output head is a plain linear layer, without an adapter or a trained copy."""
    return type(model.get_output_embeddings()) is nn.Linear
