"""A model's parameter counts, and the activations it keeps, from its configuration alone: no weights are read.

The model is built on PyTorch's meta device, and its forward pass runs on fake tensors, which have shapes and no data.
What autograd keeps for the backward pass is so counted, not modelled, for any architecture and adapter.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from implicit_prm.config import ModelConfig
from implicit_prm.costs.workload import Piece
from implicit_prm.models import lora
from implicit_prm.models.forward import base_model
from implicit_prm.models.loading import locate
from implicit_prm.training.initial_model import with_lora
from implicit_prm.types import ImplicitPRMError


@dataclass(frozen=True)
class Shape:
    """Numbers of parameters by place, and the widths that attention is counted with.

    `head` is what the output projection multiplies by; if `tied`, it is held once, as the embedding.
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
        """All but the adapter."""
        return self.backbone + self.embedding + (0 if self.tied else self.head)

    @property
    def trained(self) -> int:
        return self.adapter or self.base


def open_shape(config: ModelConfig) -> tuple[Shape, nn.Module, torch.dtype]:
    """A model's shape; the model itself on the meta device, with its adapter if it trains one; and its weights' dtype.

    Raises:
        ImplicitPRMError: no configuration to be found, or a mixture of experts, whose cost is not that of its size.
    """
    adapter = lora.find(locate(config.name), config.revision)  # it is merged into its base
    name, revision = (adapter.base, adapter.base_revision) if adapter else (config.name, config.revision)
    options = {"revision": revision, "trust_remote_code": config.trust_remote_code}
    try:
        described = AutoConfig.from_pretrained(locate(name), **options)
        text = described.get_text_config()
        dtype = (text.dtype or torch.float32) if config.dtype == "auto" else getattr(torch, config.dtype)
        # Fused attention kernels keep the same; only eager attention keeps its [tokens, tokens] weights.
        attention = "eager" if config.attn_implementation == "eager" else "sdpa"
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(
                described, dtype=dtype, attn_implementation=attention, trust_remote_code=config.trust_remote_code
            )
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().split("\n")[0]
        raise ImplicitPRMError(
            f"cannot read the configuration of {name!r}: {first} An estimate needs no weights: name a local "
            "folder that holds the model's config.json, model.name=FOLDER"
        ) from error
    if any(getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise ImplicitPRMError(
            f"{config.name} is a mixture of experts; the estimate has every token pass every parameter, which is wrong "
            "for one"
        )
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    base, projection = _count(model), _count(head)
    tied = head.weight is embedding
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    if config.lora is not None:
        with torch.device("meta"):
            model = with_lora(model, config.lora)
    shape = Shape(
        backbone=base - embedding.numel() - (0 if tied else projection),
        embedding=embedding.numel(),
        head=projection,
        adapter=_count(model) - base,
        tied=tied,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        attention_width=heads * head_width,
        kv_width=(getattr(text, "num_key_value_heads", None) or heads) * head_width,
    )
    return shape, model.train(), dtype


def saved_bytes(model: nn.Module, piece: Piece, dtype: torch.dtype, autocast: bool, checkpointing: bool) -> int:
    """Bytes that the backbone keeps from its forward to its backward pass, for a piece and the prompt it shares.

    The weights are not counted; copies of them that autocast makes and the graph keeps are.

    Args:
        model: on the meta device, from `open_shape`.
        dtype: what the weights are computed with. An adapter's stay float32.
        autocast: compute in bfloat16 under autocast.
        checkpointing: gradient checkpointing, which keeps each layer's input alone.
    """
    base: Any = base_model(model)
    with warnings.catch_warnings():  # newer transformers have another name for these
        warnings.simplefilter("ignore", FutureWarning)
        if checkpointing:
            base.gradient_checkpointing_enable()
        else:
            base.gradient_checkpointing_disable()
    with FakeTensorMode(), _faked(model, dtype):
        weights = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
        saved: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in weights:
                saved[_storage(tensor)] = tensor  # kept alive, or its storage's address would come again
            return tensor

        with (
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            _forward(base.base_model, piece)
        return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def _forward(body: Any, piece: Piece) -> None:
    """What `group_logprobs` does: plain rows, or a prompt whose keys and values all rows read."""
    ids = torch.zeros(piece.rows, piece.width, dtype=torch.long)
    if not piece.prompt:
        body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        return
    prompt = torch.zeros(1, piece.prompt, dtype=torch.long)
    cache = body(input_ids=prompt, use_cache=True).past_key_values
    for layer in cache.layers:
        layer.keys, layer.values = (t.expand(piece.rows, -1, -1, -1) for t in (layer.keys, layer.values))
    body(input_ids=ids, past_key_values=cache, use_cache=True)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextlib.contextmanager
def _faked(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Fake CPU tensors in place of the meta ones: autocast and fused attention know a CPU, but not meta.

    Set by hand, since `to_empty` swaps tensors, which fake ones refuse.
    """
    adapted = hasattr(model, "get_base_model")
    before = [(module, dict(module._parameters), dict(module._buffers)) for module in model.modules()]
    made: dict[int, nn.Parameter | None] = {id(None): None}  # by the old one, so that tied weights stay tied
    for module, parameters, buffers in before:
        for name, old in parameters.items():
            if old is not None and id(old) not in made:
                kind = old.dtype if adapted and old.requires_grad else dtype
                made[id(old)] = nn.Parameter(torch.empty(old.shape, dtype=kind, device="cpu"), old.requires_grad)
            module._parameters[name] = made[id(old)]
        for name, buffer in buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
    try:
        yield
    finally:
        for module, parameters, buffers in before:
            module._parameters.update(parameters)
            module._buffers.update(buffers)
