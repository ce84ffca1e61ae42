"""A check, once for every class of models, that log-probabilities from a cache are those of plain rows."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from implicit_prm.models.float32 import in_float32
from implicit_prm.models.forward import base_model, is_sharded
from implicit_prm.models.rotary import fixed_length

# Limits for the difference, in nats, RMS over tokens. Measured with Qwen2.5-0.5B and SmolLM2-135M: rounding 5e-6 in
# float32 and 0.1 in bfloat16; positions shifted by one 0.3.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 0.25
_ERRORS = (NotImplementedError, AttributeError, TypeError, ValueError, IndexError, RuntimeError)
_verdicts: dict[tuple[str, ...], bool] = {}


def agrees(ability: str, fallback: str, difference: Callable[[Any, Any], float], model: Any, core: Any = None) -> bool:
    """Whether a model can do something with its cache; tried once for every class of models, with a warning if not.

    Args:
        ability: what the model should be able to do, such as "share a prompt".
        fallback: what happens otherwise, for the warning.
        difference: takes a model and the model inside the wrapper, and returns the root mean square difference from
            plain rows over the tokens, in nats. It raises an error if the model cannot do it at all.
        model: the causal LM to call, which may be wrapped.
        core: the model inside the wrapper.
    """
    base = base_model(core or model)
    kind = type(base).__name__
    # Models of a class may have different rotary embeddings.
    positions = "any length" if fixed_length(base) is None else "up to a length"
    key = (ability, kind, str(base.config._attn_implementation), str(base.dtype), str(base.device.type), positions)
    if key not in _verdicts:
        try:
            found, tolerance = measured(difference, model, core)
            _verdicts[key] = found <= tolerance
            why = f"log-probabilities differ by {found:.2g} nats from those of plain rows; expected {tolerance:g}"
        except _ERRORS as error:
            _verdicts[key], why = False, str(error).split("\n")[0]
        if not _verdicts[key]:
            warnings.warn(f"{kind} cannot {ability} ({why}); {fallback}", stacklevel=4)
    return _verdicts[key]


@torch.no_grad()
def measured(difference: Callable[[Any, Any], float], model: Any, core: Any = None) -> tuple[float, float]:
    """Compare in float32 where that is possible.

    In half precision rounding moves a token's log-probability by as much as a wrong position does; in float32 the two
    are five orders of magnitude apart. Quantized and sharded weights cannot be converted; the limit for them is above
    what rounding does.

    Args:
        difference: as for `agrees`.
        model: as for `agrees`.
        core: as for `agrees`.

    Returns:
        The difference in nats, and the limit for it.
    """
    base = base_model(core or model)
    if _has_plain_weights(base):
        with contextlib.suppress(*_ERRORS), in_float32(base):
            # The class's forward: accelerate replaces the instance's by one under autocast.
            return difference(partial(type(base).forward, base), base), _TOLERANCE
    half = base.dtype != torch.float32 or torch.is_autocast_enabled(base.device.type)
    return difference(model, core), _HALF_TOLERANCE if half else _TOLERANCE


def _has_plain_weights(base: Any) -> bool:
    """Whether all weights are whole floating-point tensors: not quantized by bitsandbytes, not sharded."""
    return not is_sharded(base) and getattr(base, "hf_quantizer", None) is None
