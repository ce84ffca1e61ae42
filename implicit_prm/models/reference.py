"""What the reference says of responses: from the cache, or computed and put there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from implicit_prm.models.forward import base_model
from implicit_prm.models.loading import locate, weights_identity
from implicit_prm.models.reference_cache import ReferenceCache, key_of
from implicit_prm.models.shared_prompt import Ids, response_logprobs
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.progress import tracked

Request = tuple[Ids, Sequence[Ids]]  # a prompt and its responses
_FLUSH_GROUPS = 256


def open_cache(model: Any, name: str, revision: str | None = None, folder: str | None = None) -> ReferenceCache:
    """The cache of one reference model, opened for what it computes as it is now: its weights, dtype and device.

    Args:
        model: the reference, or a PEFT model whose base is the reference.
        name, revision: the hub id or path that it was opened by.
        folder: the folder of all caches; None for the default.

    Raises:
        ImplicitPRMError: there is no such model.
    """
    base = base_model(model)
    path, device = Path(locate(name)), base.device.type
    autocast = torch.is_autocast_enabled(device)
    identity = {
        "model": name if not path.is_dir() else path.name,
        "weights": weights_identity(name, revision),
        "dtype": str(base.dtype).removeprefix("torch."),
        "autocast": str(torch.get_autocast_dtype(device)).removeprefix("torch.") if autocast else "none",
        "quantization": _quantization(base),
        "device": device,
    }
    return ReferenceCache(identity, folder)


def _quantization(base: Any) -> str:
    """How the weights are rounded and what they compute in, which the dtype of the other weights does not tell."""
    quantizer = getattr(base, "hf_quantizer", None)
    return "none" if quantizer is None else json.dumps(quantizer.quantization_config.to_dict(), sort_keys=True)


def reference_logprobs(
    model: Any, prompt_ids: Ids, responses: Sequence[Ids], max_tokens: int, cache: ReferenceCache | None = None
) -> list[np.ndarray]:
    """Each response's [T] float32 token log-probabilities under the reference, in nats.

    Args:
        model: the reference; `core` and wrappers are not its concern, as it is never trained.
        max_tokens: in one forward pass, padding included.
        cache: read first; what was not in it is added.

    Raises:
        ImplicitPRMError: log-probabilities that are not finite; they are not cached.
    """
    keys = [key_of(prompt_ids, ids) for ids in responses]
    found = [None if cache is None else cache.get(key, len(ids)) for key, ids in zip(keys, responses, strict=True)]
    missing = [place for place, values in enumerate(found) if values is None]
    if missing:
        computed = response_logprobs(model, prompt_ids, [responses[place] for place in missing], max_tokens)
        if not all(values.isfinite().all() for values in computed):
            raise ImplicitPRMError(
                "the reference log-probabilities are not finite; check the reference's weights, and use bfloat16 or "
                "float32 in the place of float16"
            )
        for place, values in zip(missing, computed, strict=True):
            found[place] = values.numpy()
            if cache is not None:
                cache.add(keys[place], values.numpy())
    return [values for values in found if values is not None]


def fill(
    cache: ReferenceCache,
    model: Any,
    requests: Sequence[Request],
    max_tokens: int,
    process: int = 0,
    processes: int = 1,
) -> None:
    """Compute whatever is not in the cache. Each of several processes does its share; `refresh` follows a barrier.

    What was computed is kept when the run is interrupted.
    """
    mine = [
        (prompt, [ids for ids in responses if cache.get(key_of(prompt, ids), len(ids)) is None])
        for prompt, responses in requests[process::processes]
    ]
    mine = [request for request in mine if request[1]]
    try:
        asked = tracked(mine, "reference log-probabilities", process == 0)
        for number, (prompt, responses) in enumerate(asked, 1):
            reference_logprobs(model, prompt, responses, max_tokens, cache)
            if number % _FLUSH_GROUPS == 0:
                cache.flush()
    finally:
        cache.flush()
