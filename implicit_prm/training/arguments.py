"""`trainer.*` options as `TrainingArguments`: which are refused, which defaults differ, and what they amount to."""

from __future__ import annotations

import contextlib
import copy
import difflib
import netrc
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, get_args, get_type_hints
from urllib.parse import urlparse

import torch
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from implicit_prm.config import BaselineConfig, TrainConfig, convert
from implicit_prm.training.metrics import check_best_metric, dev_metrics, metric_names
from implicit_prm.types import ImplicitPRMError

# Options that this trainer would ignore, or that would break what it relies on.
_REFUSED = {
    "label_smoothing_factor": "the outcome losses have no label smoothing",
    "use_liger_kernel": "it replaces the output head that log-probabilities are computed from",
    "neftune_noise_alpha": "noise in the policy alone would count as reward",
    "push_to_hub": "it would push checkpoints during training; push the finished model with push_to_hub=ORG/NAME",
    "dataloader_drop_last": "every prompt is trained on; the loss of a short last batch is its own mean",
    "include_num_input_tokens_seen": "a batch holds groups, whose tokens transformers cannot count",
    "torch_empty_cache_steps": "max_tokens_per_batch bounds memory",
    "enable_jit_checkpoint": "a run that it stops early would be saved as finished; SIGTERM keeps all checkpoints",
    "batch_eval_metrics": "the dev metrics need all prompts at once",
    "ddp_find_unused_parameters": "the output head is used outside its forward, so every parameter looks unused",
}

# transformers would compile the whole model, whose output head and KV cache are used outside its forward;
# `forward.compile_blocks` compiles the parts of its blocks instead.
COMPILE = ("torch_compile", "torch_compile_mode", "torch_compile_backend")


def training_arguments(config: TrainConfig | BaselineConfig) -> TrainingArguments:
    """`config.trainer` as transformers' TrainingArguments, which define and check most options.

    Raises:
        ImplicitPRMError: an unknown option, one that would be ignored, or a combination that TrainingArguments refuses.
    """
    known = {f.name for f in fields(TrainingArguments)}
    hints = get_type_hints(TrainingArguments)
    for key in config.trainer:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean trainer.{near[0]}?" if near else "see transformers.TrainingArguments for the names"
            raise ImplicitPRMError(f"trainer.{key}: unknown option; {hint}")
        # TrainingArguments accepts a string for a number, and fails later, when it computes with it.
        if set(get_args(hints[key]) or [hints[key]]) <= {int, float, bool, type(None)}:
            convert(hints[key], config.trainer[key], f"trainer.{key}")
    refuse_unsupported(config.trainer, "trainer.")
    defaults = {
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        "use_cpu": not torch.accelerator.is_available(),  # several CPU processes need it to find each other
    }
    options = defaults | {key: value for key, value in config.trainer.items() if key not in COMPILE}
    for key in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):  # their names before transformers 5.23
        renamed = key.replace("gradient", "activation")
        if renamed in known and key in options:
            options.setdefault(renamed, options.pop(key))
    try:
        arguments = TrainingArguments(output_dir=config.output_dir, **options)
        for tracker in get_reporting_integration_callbacks(arguments.report_to):
            tracker()  # raises if its package is not installed
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ImplicitPRMError(f"trainer: {str(error).strip()}") from error
    check_best_metric(arguments, metric_names(_dev_metrics_of(config)))
    return arguments


def _dev_metrics_of(config: TrainConfig | BaselineConfig) -> Callable[[EvalPrediction], dict[str, float]]:
    if isinstance(config, BaselineConfig):
        return partial(dev_metrics, outcome_name="last")
    return partial(dev_metrics, beta=1.0, has_reference=config.model.reference != "none")


def refuse_unsupported(options: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse options of TrainingArguments that these trainers do not support.

    Args:
        options: by name; missing ones have their default.
        prefix: of the names, in the message.

    Raises:
        ImplicitPRMError: names the option.
    """
    default = {f.name: f.default for f in fields(TrainingArguments)}
    for key, why in _REFUSED.items():
        if options.get(key) and options[key] != default[key]:
            raise ImplicitPRMError(f"{prefix}{key}: {why}; remove it")
    if options.get("train_sampling_strategy", "random") not in ("random", "sequential"):
        raise ImplicitPRMError(f"{prefix}train_sampling_strategy: expected random or sequential")
    # Every process computes a share of the reference log-probabilities, so each needs the weights before FSDP shards.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


@contextlib.contextmanager
def without_token(trainer: Trainer) -> Iterator[None]:
    """Leave the hub's access token out of training_args.bin, which `Trainer._save` writes."""
    arguments = trainer.args
    trainer.args = copy.copy(arguments)
    trainer.args.hub_token = None
    try:
        yield
    finally:
        trainer.args = arguments


def compile_options(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Mode and backend of torch.compile; None if neither `torch_compile` nor one of its options is set."""
    enabled, mode, backend = (options.get(key) for key in COMPILE)
    return {"mode": mode, "backend": backend or "inductor"} if enabled or mode or backend else None


def step_line(arguments: TrainingArguments, processes: int, responses: float, single: bool = False) -> str:
    """The size of an optimiser step as a sentence.

    Args:
        responses: mean number of responses per prompt.
        single: whether batches count single responses, not prompts.
    """
    batch, accumulation = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    prompts = processes * batch * accumulation
    if single:
        return (
            f"an optimiser step: {prompts} responses, drawn from all prompts (processes {processes}, responses per "
            f"process {batch}, accumulation steps {accumulation})"
        )
    return (
        f"an optimiser step: {prompts} prompts x {responses:.3g} responses = {prompts * responses:.0f} responses "
        f"(processes {processes}, prompts per process {batch}, accumulation steps {accumulation})"
    )


def warn_if_all_warmup(arguments: TrainingArguments, steps: int, say: Callable[[str], None]) -> None:
    """Warn if all `steps` were warm-up. The first step of a warm-up has a learning rate of 0."""
    if 0 < steps <= arguments.get_warmup_steps(steps):
        what = "the only optimiser step had a learning rate of 0, so nothing was learnt"
        if steps > 1:
            what = f"all {steps} optimiser steps were warm-up, which starts at a learning rate of 0"
        say(f"trainer.warmup_steps={arguments.warmup_steps:g}: {what}; set it to 0, or train for more steps")


def log_offline_without_wandb_key(arguments: TrainingArguments, say: Callable[[str], None]) -> None:
    """Switch wandb to offline mode if there is no API key: its login prompt would block an unattended run."""
    if "wandb" not in (arguments.report_to or ()):
        return
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        known = netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        known = False
    if not known and "WANDB_API_KEY" not in os.environ and "WANDB_MODE" not in os.environ:
        os.environ["WANDB_MODE"] = "offline"
        say("wandb: no API key, so the run is logged offline (`wandb sync` uploads it later)")
