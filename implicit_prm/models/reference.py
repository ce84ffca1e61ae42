"""Reference log-probabilities: read from the cache, or computed and added to it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from implicit_prm.data.tokenization import key_of
from implicit_prm.models.forward import base_model
from implicit_prm.models.reference_cache import ReferenceCache
from implicit_prm.models.shared_prompt import Ids, response_logprobs
from implicit_prm.models.source import ModelSource
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.progress import tracked

Request = tuple[Ids, Sequence[Ids], Sequence[bytes]]  # a prompt, its responses, and their keys (`key_of`)
_FLUSH_GROUPS = 256


@contextlib.contextmanager
def reference_model(policy: Any, reference: PreTrainedModel | None) -> Iterator[Any]:
    """The reference: a model of its own, or the policy with its LoRA adapter disabled."""
    if reference is not None:
        yield reference
        return
    with policy.disable_adapter():
        yield policy


def open_cache(
    model: Any, source: ModelSource, folder: str | None = None, weights: str | None = None
) -> ReferenceCache:
    """Open the cache of a reference model, for its weights, dtype and device as they are now.

    Args:
        model: the reference, or a PEFT model whose base is the reference.
        source: what the reference was opened from.
        folder: the folder of all caches; None for the default.
        weights: identity of the weights (`weights_in_memory`); by default that of the files of `source`.

    Returns:
        The cache.
    """
    base = base_model(model)
    device = base.device.type
    autocast = torch.is_autocast_enabled(device)
    identity = {
        "model": source.folder.name if source.commit is None else source.name,
        "weights": weights or source.identity,
        "dtype": str(base.dtype).removeprefix("torch."),
        "autocast": str(torch.get_autocast_dtype(device)).removeprefix("torch.") if autocast else "none",
        "quantization": _quantization(base),
        "device": device,
    }
    return ReferenceCache(identity, folder)


def weights_in_memory(model: Any) -> str:
    """SHA-256 of a model's parameters as they are, without those of a LoRA adapter."""
    digest = hashlib.sha256()
    for name, parameter in base_model(model).named_parameters():
        if "lora_" not in name:
            digest.update(name.replace(".base_layer", "").encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _quantization(base: Any) -> str:
    """The quantization config as JSON: the model's dtype does not show it."""
    quantizer = getattr(base, "hf_quantizer", None)
    return "none" if quantizer is None else json.dumps(quantizer.quantization_config.to_dict(), sort_keys=True)


def reference_logprobs(
    model: Any, prompt_ids: Ids, responses: Sequence[Ids], max_tokens: int, cache: ReferenceCache | None = None
) -> list[np.ndarray]:
    """Token log-probabilities of the responses to one prompt under the reference.

    Args:
        model: the reference, not wrapped for training.
        prompt_ids: tokens of the prompt.
        responses: tokens of each response.
        max_tokens: in one forward pass, padding included.
        cache: read first; what is missing is computed and added.

    Returns:
        [T] float32 per response, in nats.

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
    requests: Iterable[Request],
    max_tokens: int,
    process: int = 0,
    processes: int = 1,
) -> None:
    """Compute the reference log-probabilities that the cache lacks. What is computed before an interruption is kept.

    Args:
        cache: where they are written. With several processes, `refresh` it after a barrier.
        model: the reference.
        requests: prompts with their responses, the same in every process.
        max_tokens: in one forward pass, padding included.
        process: rank of this process, which computes every `processes`-th request.
        processes: how many processes share the work.
    """
    mine = []
    for prompt, responses, keys in islice(requests, process, None, processes):
        missing = [ids for ids, key in zip(responses, keys, strict=True) if cache.get(key, len(ids)) is None]
        if missing:
            mine.append((prompt, missing))
    try:
        for number, (prompt, responses) in enumerate(tracked(mine, "reference log-probabilities", process == 0), 1):
            reference_logprobs(model, prompt, responses, max_tokens, cache)
            if number % _FLUSH_GROUPS == 0:
                cache.flush()
    finally:
        cache.flush()
