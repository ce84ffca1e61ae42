"""The reference log-probabilities of a run's data, computed before training: no second model is held while training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from implicit_prm.data.tokenization import Encoder
from implicit_prm.models import forward, loading
from implicit_prm.models.reference import Request, fill, open_cache, reference_model, weights_in_memory
from implicit_prm.training import initial_model
from implicit_prm.training.batches import GroupDataset
from implicit_prm.utils.distributed import processes


def add_reference_logprobs(
    initial: initial_model.InitialModel,
    arguments: TrainingArguments,
    policy: Any,
    encoder: Encoder,
    datasets: Sequence[GroupDataset],
    *,
    folder: str | None = None,
    max_tokens: int | None = None,
    reference: PreTrainedModel | None = None,
    in_memory: bool = False,
) -> None:
    """Give `datasets` a cache with the reference log-probabilities of all their responses.

    The reference is the initial policy unless `initial` names another model, which is opened for this pass only. The
    forward passes run in the precision of training, so that rounding cancels in the log-ratio.

    Args:
        initial: the resolved model, whose reference is not `none`.
        arguments: the trainer's.
        policy: the untrained policy.
        encoder: the text handling.
        datasets: the training set, and the dev set if there is one.
        folder: of all caches; by default `$IPR_CACHE` or ~/.cache/implicit_prm.
        max_tokens: in one forward pass, padding included; by default what suits the device.
        reference: the model that `initial` names, if it is open already.
        in_memory: the policy was opened by the caller, who may have changed its weights since.
    """
    model, source, device = initial.config, initial.reference_source, arguments.device
    assert source is not None
    changeable = reference is not None
    if reference is None:
        reference = initial_model.open_reference(initial, encoder.tokenizer)
        changeable = in_memory and reference is None
    if reference is not None:
        loading.check_embeds(reference, encoder)
    if model.quantization is None:  # bitsandbytes has already placed its weights
        model_to_place: Any = policy if reference is None else reference
        model_to_place.to(device)
    budget = max_tokens or forward.token_budget(device)
    half = torch.bfloat16 if arguments.bf16 else torch.float16
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(processes())
        stack.enter_context(torch.autocast(device.type, half, enabled=arguments.bf16 or arguments.fp16))
        # A new adapter changes nothing yet, but the forward pass is cheaper without it.
        has_adapter = hasattr(policy, "disable_adapter")
        model_or_base = stack.enter_context(reference_model(policy, reference)) if has_adapter or reference else policy
        weights = weights_in_memory(model_or_base) if changeable else None
        cache = open_cache(model_or_base, source, folder, weights)

        def requests() -> Iterator[Request]:
            return chain.from_iterable(dataset.requests() for dataset in datasets)

        if any(state.gather(cache.lacks(requests()))):
            cache.require_shared(state)
            fill(cache, model_or_base, requests(), budget, state.rank, state.size)
        cache.refresh(chain.from_iterable(state.gather(cache.written)))
    for dataset in datasets:
        dataset.cache = cache
