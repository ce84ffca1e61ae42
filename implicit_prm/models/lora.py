"""LoRA adapters: found by their name, put on the model they were made for, merged into it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers.utils import find_adapter_config_file

from implicit_prm.models.load_errors import clear_load_errors
from implicit_prm.types import ImplicitPRMError


@dataclass(frozen=True)
class Adapter:
    """An adapter, and the model below it."""

    name: str
    revision: str | None
    base: str
    base_revision: str | None


def find(name: str, revision: str | None = None, token: str | None = None) -> Adapter | None:
    """The adapter in a folder or hub repository; None where there is none, so that it is a model by itself.

    Raises:
        ImplicitPRMError: it cannot be reached, names no base, or is no adapter of a causal LM's weights.
    """
    with clear_load_errors(name):
        file = find_adapter_config_file(name, revision=revision, token=token)
    if file is None:
        return None
    from peft import PeftConfig  # slow to import

    with clear_load_errors(name, "adapter"):
        config = PeftConfig.from_pretrained(str(Path(file).parent))
    if not config.base_model_name_or_path:
        raise ImplicitPRMError(
            f"cannot open the adapter {name!r}: its adapter_config.json names no base model; write it there as "
            "base_model_name_or_path"
        )
    if config.is_prompt_learning or config.task_type not in (None, "CAUSAL_LM"):
        kind = config.peft_type if config.is_prompt_learning else config.task_type
        raise ImplicitPRMError(f"{name} is a {kind} adapter; only adapters of a causal LM's weights, as LoRA, fit here")
    return Adapter(name, revision, config.base_model_name_or_path, config.revision)


def put_on(base: Any, adapter: Adapter, token: str | None = None) -> Any:
    """`base` with the adapter on it, in evaluation mode.

    Raises:
        ImplicitPRMError: the adapter's weights are damaged, incomplete, or made for another model.
    """
    from peft import PeftModel

    with clear_load_errors(adapter.name, "adapter"), warnings.catch_warnings():
        # What the file lacks would stay as it was initialised: an adapter that does less than it was trained to.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        return PeftModel.from_pretrained(base, adapter.name, revision=adapter.revision, token=token).eval()


def merge(adapted: Any) -> Any:
    """The plain model that computes what `adapted` does, its weights changed in place.

    Raises:
        ImplicitPRMError: the merged weights are not finite.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    core = adapted.get_base_model()
    ends = core.get_input_embeddings(), core.get_output_embeddings()
    if core.config.tie_word_embeddings and any(isinstance(end, BaseTunerLayer) for end in ends):
        # What the adapter adds to one of two tied matrices must not reach the other.
        head = getattr(ends[1], "base_layer", ends[1])
        head.weight = nn.Parameter(head.weight.detach().clone())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(Model with `tie_word|Input and output embeddings)")
        try:
            return adapted.merge_and_unload(safe_merge=True).eval()
        except ValueError as error:
            raise ImplicitPRMError(f"the adapter cannot be merged: {error}") from error


def has_plain_head(model: Any) -> bool:
    """Whether log-probabilities can be read from the output head as it is: no adapter on it, no trained copy of it."""
    return type(model.get_output_embeddings()) is nn.Linear
