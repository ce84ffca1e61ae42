"""Bytes of activations that autograd keeps, found by running the forward pass on fake tensors, which hold no data.

They are counted, not modelled, so the figure holds for any architecture and adapter.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from implicit_prm.costs.workload import Piece
from implicit_prm.models.forward import base_model


def saved_bytes(model: nn.Module, piece: Piece, dtype: torch.dtype, autocast: bool, checkpointing: bool) -> int:
    """Bytes that the backbone keeps for the backward pass, for a piece and its shared prompt.

    Weights are not counted, but the half-precision copies of them that autocast makes are.

    Args:
        model: on the meta device, from `open_shape`.
        piece: the rows that run together.
        dtype: of the weights. An adapter's weights stay float32.
        autocast: compute in bfloat16 under autocast.
        checkpointing: gradient checkpointing, which keeps only each layer's input.
    """
    base: Any = base_model(model)
    with warnings.catch_warnings():  # newer transformers rename these methods
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
                saved[_storage(tensor)] = tensor  # kept alive, so that its storage's address is not reused
            return tensor

        with (
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            _forward(base.base_model, piece)
        return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def _forward(body: Any, piece: Piece) -> None:
    """Run a piece as training does: plain rows, or rows that attend to the keys and values of a `SharedPrompt`."""
    ids = torch.zeros(piece.rows, piece.width, dtype=torch.long)
    if not piece.prompt:
        body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        return
    prompt = torch.zeros(1, piece.prompt, dtype=torch.long)
    cache = body(input_ids=prompt, use_cache=True).past_key_values
    for layer in cache.layers:
        layer.keys, layer.values = (t.expand(piece.rows, -1, -1, -1) for t in (layer.keys, layer.values))
    body(input_ids=ids, past_key_values=cache, use_cache=True)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextlib.contextmanager
def _faked(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Replace the model's meta tensors by fake CPU ones, since autocast and fused attention do not support meta.

    They are set by hand: `to_empty` swaps tensors, which fake tensors do not allow.
    """
    adapted = hasattr(model, "get_base_model")
    before = [(module, dict(module._parameters), dict(module._buffers)) for module in model.modules()]
    made: dict[int, nn.Parameter | None] = {id(None): None}  # by the id of the old one, so that tied weights stay tied
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
