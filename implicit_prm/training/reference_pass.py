"""The reference log-probabilities of a run's data, computed before training: no second model is held while training."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainingArguments

from implicit_prm.config import TrainConfig
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models import forward, loading
from implicit_prm.models.reference import fill, open_cache, reference_model
from implicit_prm.training import initial_model
from implicit_prm.training.batches import GroupDataset
from implicit_prm.utils.distributed import processes


def add_reference_logprobs(
    config: TrainConfig,
    initial: initial_model.InitialModel,
    arguments: TrainingArguments,
    policy: Any,
    encoder: Encoder,
    datasets: Sequence[GroupDataset],
) -> None:
    """Give `datasets` a cache with the reference log-probabilities of all their responses.

    The reference is the initial policy unless `model.reference` names another model, which is opened for this pass
    only. The forward passes run in the precision of training, so that rounding cancels in the log-ratio.

    Args:
        initial: the resolved model, whose reference is not `none`.
    """
    model, source, device = initial.config, initial.reference_source, arguments.device
    assert source is not None
    named = initial_model.open_reference(initial, encoder.tokenizer)
    if named is not None:
        loading.check_embeds(named, encoder)
    if model.quantization is None:  # bitsandbytes has already placed its weights
        (policy if named is None else named).to(device)
    folder = None if config.reference_cache == "default" else config.reference_cache
    budget = config.max_tokens_per_batch or forward.token_budget(device)
    half = torch.bfloat16 if arguments.bf16 else torch.float16
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(processes())
        stack.enter_context(torch.autocast(device.type, half, enabled=arguments.bf16 or arguments.fp16))
        # A new adapter changes nothing yet, but the forward pass is cheaper without it.
        adapter_off = model.lora is not None or named is not None
        reference = stack.enter_context(reference_model(policy, named)) if adapter_off else policy
        cache = open_cache(reference, source, folder)
        requests = [request for dataset in datasets for request in dataset.requests()]
        fill(cache, reference, requests, budget, state.rank, state.size)
        state.gather(None)
    cache.refresh()
    for dataset in datasets:
        dataset.cache = cache
