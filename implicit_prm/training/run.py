"""From a `TrainConfig` to a trained checkpoint: read, check, report, open, train, save."""

from __future__ import annotations

import contextlib
import difflib
import netrc
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.parse import urlparse

import torch
from transformers import TrainingArguments, set_seed

from implicit_prm.config import BaselineConfig, ModelConfig, TextConfig, TrainConfig, convert, from_mapping
from implicit_prm.data import training_set
from implicit_prm.data.data_report import table
from implicit_prm.data.groups import fingerprint
from implicit_prm.data.tokenization import Encoder, context_length
from implicit_prm.models import forward, loading
from implicit_prm.models.checkpoint import ADAPTER_OFF, NONE, SETTINGS_FILE, Settings
from implicit_prm.models.implicit_prm import reference_model
from implicit_prm.models.reference import fill, open_cache
from implicit_prm.training import GroupDataset, ImplicitPRMTrainer, JsonLog, hub, initial_model, model_card, resume
from implicit_prm.types import Group, ImplicitPRMError
from implicit_prm.utils.distributed import processes, spoken_once
from implicit_prm.utils.io import write_json

# TrainingArguments that this trainer could only ignore, or that would replace what it relies on.
_REFUSED = {
    "label_smoothing_factor": "the outcome losses have no smoothed form here",
    "use_liger_kernel": "it replaces the output head that log-probabilities are read from",
    "neftune_noise_alpha": "noise in the policy alone would be read as reward",
    "push_to_hub": "it would push checkpoints while training; push the finished model with push_to_hub=ORG/NAME",
    "dataloader_drop_last": "every prompt is trained on; the loss of a short last batch is its own mean",
    "include_num_input_tokens_seen": "a batch holds groups, whose tokens transformers does not see",
    "torch_empty_cache_steps": "memory is bounded by max_tokens_per_batch",
    "batch_eval_metrics": "the dev metrics need all prompts at once",
    "ddp_find_unused_parameters": "the output head is read outside of its own forward, so all would count as unused",
}


# torch.compile is for blocks here (`forward.compile_blocks`); transformers would wrap the whole model, whose output
# head and cache are read from outside.
_COMPILE = ("torch_compile", "torch_compile_mode", "torch_compile_backend")


def fit(config: TrainConfig, say: Callable[[str], None] = print, command: str | None = None) -> dict[str, float]:
    """Train as configured and leave the checkpoint in `config.output_dir`.

    Args:
        command: how the run was started, for the model card.

    Returns:
        The final metrics: training loss and seconds, and the dev metrics where there is a dev set.

    Raises:
        ImplicitPRMError: anything wrong with options, data or models, before the first step; or, when all is saved, a
            push to the hub that failed.
    """
    config = from_mapping(TrainConfig, asdict(config))  # a config made in Python is checked like one from YAML
    arguments, say = training_arguments(config), spoken_once(say)
    if config.push_to_hub:
        hub.check_token(config.push_to_hub)
    checkpoint = resume.to_resume(config, arguments, say)
    set_seed(arguments.seed)

    train, dev = training_set.read(config.data, config.loss, arguments.seed)
    model = initial_model.resolve(config.model, config.output_dir, arguments, checkpoint is not None, say)
    tokenizer = loading.open_tokenizer(model)
    encoder = Encoder(tokenizer, config.data)
    policy = initial_model.open_policy(model, arguments)
    loading.check_embeds(policy, encoder)
    limit = context_length(policy.config, config.data.max_length)
    mismatched = config.loss.name == "kto" and not config.loss.needs_pairs
    needs_pairs, main = config.loss.needs_pairs, arguments.process_index == 0
    step_labels, too_long = config.loss.needs_step_labels, config.data.too_long
    encode_group = partial(encoder.group, step_labels=step_labels)
    encoded = training_set.encode(train, encode_group, limit, too_long, needs_pairs, progress=main)
    settings = _settings(config, model, encoder, train.groups)
    if checkpoint is not None:
        resume.check_same_run(checkpoint, settings, config.output_dir)
    encoded_dev = training_set.encode(dev, encode_group, limit, too_long) if dev else None
    sets = {"train": train} | ({"dev": dev} if dev else {})
    for line in table({name: graded.report for name, graded in sets.items()}, needs_pairs):
        say(line)
    say(step_line(arguments, arguments.world_size, sum(len(group.responses) for group in encoded) / len(encoded)))
    if main:
        training_set.write_report(Path(config.output_dir) / "data_report.json", sets)

    if model.lora is None and policy.dtype in (torch.bfloat16, torch.float16):
        say(
            f"model.dtype: weights in {policy.dtype} round away updates of a small learning rate; use "
            "model.dtype=float32, with trainer.bf16=true for speed"
        )
    train_set = GroupDataset(encoded, mismatched, limit, step_labels)
    dev_set = GroupDataset(encoded_dev, mismatched, limit, step_labels) if encoded_dev else None
    if settings.reference != NONE:
        ask_reference(config, model, arguments, policy, encoder, [train_set, dev_set] if dev_set else [train_set])
    compile_blocks(config, policy)
    trainer = ImplicitPRMTrainer(
        model=policy,
        args=arguments,
        loss=config.loss,
        settings=settings,
        max_tokens=config.max_tokens_per_batch,
        train_dataset=train_set,
        eval_dataset=dev_set,
        processing_class=tokenizer,
        callbacks=[JsonLog(str(Path(config.output_dir) / "log.jsonl"))],
    )
    if "wandb" in (arguments.report_to or ()):
        wandb_offline_without_a_key(say)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    warn_of_warmup(arguments, trainer.state.global_step, say)
    metrics = dict(result.metrics)
    if dev:
        metrics |= trainer.evaluate()
    if trainer.is_world_process_zero():  # until all is saved, the folder holds no finished model
        (Path(config.output_dir) / SETTINGS_FILE).unlink(missing_ok=True)
    trainer.save_model()
    if trainer.is_world_process_zero():
        write_json(Path(config.output_dir) / "train_metrics.json", metrics)
        logs = [row for row in trainer.state.log_history if "rewards/margins" in row]
        last = {key: value for key, value in (logs or [{}])[-1].items() if key.startswith(("rewards/", "kl"))}
        described = {
            name: [" ".join(line.split()) for line in table({name: graded.report}, needs_pairs)[1:]]
            for name, graded in sets.items()
        }
        run = model_card.Run(command, asdict(config), described, metrics, last)
        model_card.write(config.output_dir, settings, run, config.push_to_hub or config.output_dir)
        if config.push_to_hub:
            hub.push(config.output_dir, config.push_to_hub, config.hub_private, say)
    return metrics


def training_arguments(config: TrainConfig | BaselineConfig) -> TrainingArguments:
    """`trainer.*` as transformers' TrainingArguments, which name and check most options.

    Raises:
        ImplicitPRMError: an option that TrainingArguments does not know, or a combination it refuses.
    """
    known = {f.name for f in fields(TrainingArguments)}
    hints = get_type_hints(TrainingArguments)
    for key in config.trainer:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean trainer.{near[0]}?" if near else "see transformers.TrainingArguments for the names"
            raise ImplicitPRMError(f"trainer.{key}: unknown option; {hint}")
        # TrainingArguments takes a text for a number, and fails when it computes with it.
        if set(get_args(hints[key]) or [hints[key]]) <= {int, float, bool, type(None)}:
            convert(hints[key], config.trainer[key], f"trainer.{key}")
    for key, why in _REFUSED.items():
        if config.trainer.get(key):
            raise ImplicitPRMError(f"trainer.{key}: {why}; leave it out")
    if config.trainer.get("train_sampling_strategy", "random") not in ("random", "sequential"):
        raise ImplicitPRMError("trainer.train_sampling_strategy: prompts are drawn at random or in order; leave it out")
    defaults = {
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        "use_cpu": not torch.accelerator.is_available(),  # or several processes on a CPU would not find each other
    }
    options = defaults | {key: value for key, value in config.trainer.items() if key not in _COMPILE}
    for key in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):  # as transformers called it before 5.23
        renamed = key.replace("gradient", "activation")
        if renamed in known and key in options:
            options.setdefault(renamed, options.pop(key))
    # Every process asks the reference for a share of the data, so each needs the weights before FSDP shards them.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    try:
        return TrainingArguments(output_dir=config.output_dir, **options)
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ImplicitPRMError(f"trainer: {str(error).strip()}") from error


def compile_blocks(config: TrainConfig | BaselineConfig, model: Any) -> None:
    """torch.compile, where `trainer.torch_compile` or one of its options asks for it."""
    asked, mode, backend = (config.trainer.get(key) for key in _COMPILE)
    if asked or mode or backend:
        forward.compile_blocks(model, mode, backend or "inductor")


def step_line(arguments: TrainingArguments, processes: int, responses: float) -> str:
    """What an optimiser step holds, in words. `responses` is the mean per prompt."""
    batch, accumulation = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    prompts = processes * batch * accumulation
    return (
        f"an optimiser step: {prompts} prompts x {responses:.3g} responses = {prompts * responses:.0f} responses "
        f"(processes {processes}, prompts of each {batch}, accumulation steps {accumulation})"
    )


def warn_of_warmup(arguments: TrainingArguments, steps: int, say: Callable[[str], None]) -> None:
    """Say so if all of a run was warm-up, whose first step has a learning rate of 0: of one step nothing is learnt."""
    if 0 < steps <= arguments.get_warmup_steps(steps):
        what = "the only optimiser step had a learning rate of 0, so nothing was learnt"
        if steps > 1:
            what = f"all {steps} optimiser steps were warm-up, which starts at a learning rate of 0"
        say(f"trainer.warmup_steps={arguments.warmup_steps:g}: {what}; set it to 0, or take more steps")


def wandb_offline_without_a_key(say: Callable[[str], None]) -> None:
    """wandb asks for a login where there is no key, which an unattended run cannot answer."""
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        known = netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        known = False
    if not known and "WANDB_API_KEY" not in os.environ and "WANDB_MODE" not in os.environ:
        os.environ["WANDB_MODE"] = "offline"
        say("wandb: no API key, so the run is logged offline (`wandb sync` uploads it later)")


def ask_reference(
    config: TrainConfig,
    model: ModelConfig,
    arguments: TrainingArguments,
    policy: Any,
    encoder: Encoder,
    datasets: Sequence[GroupDataset],
) -> None:
    """Give `datasets` the reference's log-probabilities of all they hold, computed in the arithmetic of training.

    The starting weights are the reference unless another one is named, which is opened, asked and let go: training
    itself holds no second model.
    """
    name, revision, device = model.name, model.revision, arguments.device
    if model.reference != "initial":
        name, revision = model.reference, model.reference_revision
    named = initial_model.open_reference(model, encoder.tokenizer)
    if named is not None:
        loading.check_embeds(named, encoder)
    if model.quantization is None:  # bitsandbytes has put its weights there
        (policy if named is None else named).to(device)
    folder = None if config.reference_cache == "default" else config.reference_cache
    budget = config.max_tokens_per_batch or forward.token_budget(device)
    half = torch.bfloat16 if arguments.bf16 else torch.float16
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(processes())
        stack.enter_context(torch.autocast(device.type, half, enabled=arguments.bf16 or arguments.fp16))
        # A new adapter changes nothing yet, but without it the forward pass is cheaper.
        adapter_off = model.lora is not None or named is not None
        reference = stack.enter_context(reference_model(policy, named)) if adapter_off else policy
        cache = open_cache(reference, name, revision, folder)
        requests = [request for dataset in datasets for request in dataset.requests()]
        fill(cache, reference, requests, budget, state.rank, state.size)
        state.gather(None)
    cache.refresh()
    for dataset in datasets:
        dataset.cache = cache


def _settings(config: TrainConfig, model: ModelConfig, encoder: Encoder, groups: Sequence[Group]) -> Settings:
    """What is saved with every checkpoint. `model` is as resolved: its start opens by itself."""
    assert model.beta is not None  # initial_model.resolve
    lora = model.lora is not None
    reference, revision = model.reference, model.reference_revision
    if reference == "initial":
        reference, revision = (ADAPTER_OFF, None) if lora else (model.name, model.revision)
    names = {f.name for f in fields(TextConfig)}
    packages = ("implicit-prm", "torch", "transformers", *(["peft"] if lora else []))
    return Settings(
        beta=model.beta,
        reference=initial_model.absolute(reference),
        reference_revision=revision,
        base=initial_model.absolute(model.name) if lora else None,
        base_revision=model.revision if lora else None,
        quantization=model.quantization,
        lora=asdict(model.lora) if model.lora is not None else None,
        start=initial_model.absolute(config.model.name),
        start_revision=config.model.revision,
        text=TextConfig(**{name: value for name, value in asdict(config.data).items() if name in names}),
        max_length=config.data.max_length,
        template_hash=encoder.template_hash,
        loss=asdict(config.loss),
        data_fingerprint=fingerprint(groups, config.loss.needs_step_labels),
        versions={package: version(package) for package in packages},
    )
