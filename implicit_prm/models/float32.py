"""Run a half-precision model in float32 without a second copy of its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Compute the model's forward passes in float32, for inference.

    Each module's weights are converted for the duration of its own forward pass, so the memory that this takes is that
    of the largest module. Embeddings are looked up first and then converted, which gives the same numbers.

    Args:
        model: its weights must be plain floating-point tensors: neither quantized nor sharded.
    """
    originals: dict[nn.Module, dict[str, nn.Parameter | None]] = {}

    def convert(module: nn.Module, *_: Any) -> None:
        originals[module] = dict(module._parameters)
        for name, weight in module._parameters.items():
            if weight is not None and weight.is_floating_point():
                module._parameters[name] = nn.Parameter(weight.float(), requires_grad=False)

    def restore(module: nn.Module, *_: Any) -> None:
        module._parameters.update(originals.pop(module))

    def convert_output(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.float()

    handles = []
    for module in model.modules():
        if type(module) is nn.Embedding:  # subclasses also scale what they look up
            handles.append(module.register_forward_hook(convert_output))
        elif module._parameters:
            handles.append(module.register_forward_pre_hook(convert))
            handles.append(module.register_forward_hook(restore, always_call=True))
    device = next(model.parameters()).device.type
    try:
        # A compiled module would be compiled again for other dtypes.
        with torch.no_grad(), torch.autocast(device, enabled=False), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for handle in handles:
            handle.remove()
