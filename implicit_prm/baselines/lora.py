"""LoRA for explicit reward models: an adapter on the frozen base, and a head that is trained fully."""

from __future__ import annotations

from typing import Any

from torch import nn

from implicit_prm.config import LoraConfig
from implicit_prm.models import lora as adapters
from implicit_prm.training.initial_model import with_adapter


def with_lora(model: Any, config: LoraConfig, value_head: bool) -> Any:
    """Add a new adapter to a model with a value head, or to a causal LM.

    What is trained is float32, whatever the type of the base.

    Args:
        model: the base model, in place.
        config: options of the adapter.
        value_head: train the head as well; a causal LM's is frozen.

    Returns:
        A PEFT model.

    Raises:
        ImplicitPRMError: the options do not fit the model.
    """
    import peft

    heads = [name for name, child in model.named_children() if isinstance(child, nn.Linear)] if value_head else []
    peft_config = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        modules_to_save=heads or None,
        exclude_modules=heads or None,
    )
    adapted = with_adapter(model, peft_config, None, "model.lora", causal=not value_head)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for name in heads:
        for head in getattr(adapted.get_base_model(), name).modules_to_save.values():
            head.register_forward_pre_hook(_cast_input)
    return adapted


def merged(adapted: Any) -> Any:
    """The plain model in float32, its adapter merged into the weights; in place."""
    return adapters.merge(adapted.float())


def _cast_input(head: nn.Linear, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].to(head.weight.dtype), *inputs[1:])
