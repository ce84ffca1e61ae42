"""Causal attention to cached keys without a mask in memory.

Queries that follow cached keys are causal from the lower right corner of a [queries, keys] rectangle. PyTorch's kernels
are causal from the upper left, so transformers makes a mask, which kernels convert to the dtype of the queries: 5 GB
in float32 for a response of 32,768 tokens. Here the queries are padded at the front to a square instead. That is the
attention of plain rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "sdpa_to_cached_keys"


@contextlib.contextmanager
def without_mask(model: Any) -> Iterator[None]:
    """Within the block, sdpa attention makes no mask where the keys are the cached ones and the queries' own.

    Other attention implementations are left alone: those of flash and flex attention have no such mask, and eager
    attention needs it.

    Args:
        model: a causal LM of transformers.
    """
    config = model.config.get_text_config()
    # The attribute says that the model looks up attention and mask by name in every forward pass.
    if config._attn_implementation != "sdpa" or not model._supports_attention_backend:
        yield
        return
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def _mask(**arguments: Any) -> Tensor | None:
    """No mask where plain causal attention is enough; else that of sdpa, with padding or a sliding window."""
    window, keys = arguments.get("local_size"), arguments["kv_length"]
    plain = arguments.get("allow_is_causal_skip", True) and arguments.get("attention_mask") is None
    return None if plain and (window is None or keys < window) else sdpa_mask(**arguments)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention of the last `queries` of `keys` positions, as sdpa computes it."""
    queries, keys = query.shape[2], key.shape[2]
    if attention_mask is None and 1 < queries < keys:
        query = F.pad(query, (0, 0, keys - queries, 0))
    output, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return output[:, -queries:], weights


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)
