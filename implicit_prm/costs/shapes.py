"""Parameter counts and widths of a model, from its configuration alone: no weights are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from implicit_prm.config import ModelConfig
from implicit_prm.models.source import ModelSource
from implicit_prm.training.initial_model import with_lora
from implicit_prm.types import ImplicitPRMError


@dataclass(frozen=True)
class Shape:
    """Numbers of parameters by part, and the widths that attention is counted with.

    Args:
        backbone: everything but embedding, output head and adapter.
        embedding: the input embedding.
        head: the output projection. If `tied`, it is the embedding and held once.
        adapter: LoRA's parameters; 0 without an adapter.
        tied: input and output embeddings are one tensor.
        layers: number of decoder layers.
        width: of the hidden states.
        attention_width: of all query heads together.
        kv_width: of all key heads together.
    """

    backbone: int
    embedding: int
    head: int
    adapter: int
    tied: bool
    layers: int
    width: int
    attention_width: int
    kv_width: int

    @property
    def base(self) -> int:
        """All parameters but the adapter's."""
        return self.backbone + self.embedding + (0 if self.tied else self.head)

    @property
    def trained(self) -> int:
        """The parameters that get a gradient: the adapter's if there is one, else all."""
        return self.adapter or self.base


def shape_of(model: PreTrainedModel) -> Shape:
    """The shape of a causal language model without an adapter, on any device."""
    text = model.config.get_text_config()
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    base, projection = _count(model), _count(head)
    tied = head.weight is embedding.weight
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Shape(
        backbone=base - _count(embedding) - (0 if tied else projection),
        embedding=_count(embedding),
        head=projection,
        adapter=0,
        tied=tied,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        attention_width=heads * head_width,
        kv_width=(getattr(text, "num_key_value_heads", None) or heads) * head_width,
    )


def open_shape(config: ModelConfig) -> tuple[Shape, nn.Module, torch.dtype]:
    """The shape of a model, the model on the meta device (with the adapter that it trains), and its weights' dtype.

    Raises:
        ImplicitPRMError: the configuration cannot be read, or the model is a mixture of experts.
    """
    source = ModelSource.of(config)
    if source.adapter is not None:
        source = source.base  # the adapter is merged into it
    try:
        described = AutoConfig.from_pretrained(str(source.folder), trust_remote_code=config.trust_remote_code)
        text = described.get_text_config()
        dtype = (text.dtype or torch.float32) if config.dtype == "auto" else getattr(torch, config.dtype)
        # Only eager attention keeps its [tokens, tokens] weights; all fused kernels keep the same tensors.
        attention = "eager" if config.attn_implementation == "eager" else "sdpa"
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(
                described, dtype=dtype, attn_implementation=attention, trust_remote_code=config.trust_remote_code
            )
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().split("\n")[0]
        raise ImplicitPRMError(
            f"cannot read the configuration of {source.name!r}: {first} An estimate needs only config.json: set "
            "model.name to a local folder that has it"
        ) from error
    if any(getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise ImplicitPRMError(
            f"{config.name} is a mixture of experts, which cannot be estimated: the formulas assume that every token "
            "uses every parameter"
        )
    shape = shape_of(model)
    if config.lora is not None:
        with torch.device("meta"):
            model = with_lora(model, config.lora)
        shape = replace(shape, adapter=_count(model) - shape.base)
    return shape, model.train(), dtype


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
