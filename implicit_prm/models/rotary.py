"""Rotary embeddings whose frequencies depend on the length: dynamic NTK and LongRoPE."""

from __future__ import annotations

from typing import Any

from torch import nn

_KINDS = ("dynamic", "longrope")


def fixed_length(model: nn.Module) -> int | None:
    """Number of tokens up to which a model reads a token in the same way, whatever the length of its row.

    Beyond it, all rows of a forward pass get frequencies that follow from the longest one, so that neither a shared
    prompt nor a padded batch gives the numbers of a row by itself.

    Args:
        model: a transformers model.

    Returns:
        The number; None if no length changes the frequencies.
    """
    limits = [_original_context(module.config) for module in model.modules() if _depends_on_length(module)]
    # transformers returns to the first frequencies below this context, not at it.
    return min(limits) - 1 if limits else None


def _depends_on_length(module: nn.Module) -> bool:
    kinds = getattr(module, "rope_type", None)
    names = kinds.values() if isinstance(kinds, dict) else [kinds]
    return any(kind in str(name) for name in names for kind in _KINDS)


def _original_context(config: Any) -> int:
    parameters = config.rope_parameters
    by_layer = [one for one in parameters.values() if isinstance(one, dict)] or [parameters]
    found = [one.get("original_max_position_embeddings") or config.max_position_embeddings for one in by_layer]
    return min(found)
