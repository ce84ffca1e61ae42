"""From a `TrainConfig` to a trained checkpoint: read, check, report, open, train, save."""

from __future__ import annotations

import difflib
import netrc
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import get_args, get_type_hints
from urllib.parse import urlparse

import torch
from transformers import TrainingArguments, set_seed

from implicit_prm import backbone, card, checkpoints, publishing, starting
from implicit_prm.config import DataConfig, LossConfig, ModelConfig, TextConfig, TrainConfig, convert, from_mapping
from implicit_prm.data.files import write_json
from implicit_prm.data.groups import Report, balance, fingerprint, is_mixed, load_groups, take_responses
from implicit_prm.data.tokens import EncodedGroup, Encoder, context_length
from implicit_prm.records import Group, ImplicitPRMError
from implicit_prm.settings import ADAPTER_OFF, SETTINGS_FILE, Settings
from implicit_prm.training import GroupDataset, ImplicitPRMTrainer, JsonLog

# TrainingArguments that this trainer could only ignore, or that would replace what it relies on.
_REFUSED = {
    "label_smoothing_factor": "the outcome losses have no smoothed form here",
    "use_liger_kernel": "it replaces the output head that log-probabilities are read from",
    "neftune_noise_alpha": "noise in the policy alone would be read as reward",
    "push_to_hub": "it would push checkpoints while training; push the finished model with push_to_hub=ORG/NAME",
    "dataloader_drop_last": "every prompt is trained on; the loss of a short last batch is its own mean",
    "batch_eval_metrics": "the dev metrics need all prompts at once",
    "ddp_find_unused_parameters": "the output head is read outside of its own forward, so all would count as unused",
}


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
    arguments = training_arguments(config)
    if config.push_to_hub:
        publishing.check_token(config.push_to_hub)
    resume = checkpoints.to_resume(config, arguments, say)
    set_seed(arguments.seed)

    train, dev, report = read(config.data, config.loss, arguments.seed)
    described = {"train": report.lines(config.loss.needs_pairs)}
    if dev:
        described["dev"] = Report.of(dev).lines(needs_pairs=False)
    for part, lines in described.items():
        for line in lines:
            say(f"{part}: {line}")

    model = starting.resolve(config.model, config.output_dir, arguments, resume is not None, say)
    tokenizer = backbone.open_tokenizer(model)
    encoder = Encoder(tokenizer, config.data)
    policy = starting.open_policy(model, arguments)
    backbone.check_embeds(policy, encoder)
    limit = context_length(policy.config, config.data.max_length)
    mismatched = config.loss.name == "kto" and not config.loss.needs_pairs
    encoded = encode(train, encoder, limit, config.data.too_long, say)
    if config.loss.needs_pairs:
        encoded = _with_pairs(encoded, say)
    settings = _settings(config, model, encoder, train)
    if resume is not None:
        checkpoints.check_same_run(resume, settings, config.output_dir)
    encoded_dev = encode(dev, encoder, limit, config.data.too_long, say)

    if model.lora is None and policy.dtype in (torch.bfloat16, torch.float16):
        say(
            f"model.dtype: weights in {policy.dtype} round away updates of a small learning rate; use "
            "model.dtype=float32, with trainer.bf16=true for speed"
        )
    reference = starting.open_reference(model, tokenizer)
    if reference is not None:
        backbone.check_embeds(reference, encoder)
    trainer = ImplicitPRMTrainer(
        model=policy,
        args=arguments,
        loss=config.loss,
        settings=settings,
        reference=reference,
        train_dataset=GroupDataset(encoded, mismatched, limit),
        eval_dataset=GroupDataset(encoded_dev, mismatched, limit) if dev else None,
        processing_class=tokenizer,
        callbacks=[JsonLog(str(Path(config.output_dir) / "log.jsonl"))],
    )
    if "wandb" in (arguments.report_to or ()):
        _wandb_offline_without_a_key(say)
    result = trainer.train(resume_from_checkpoint=resume)
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
        run = card.Run(command, asdict(config), described, metrics, last)
        card.write(config.output_dir, settings, run, config.push_to_hub or config.output_dir)
        if config.push_to_hub:
            publishing.push(config.output_dir, config.push_to_hub, config.hub_private, say)
    return metrics


def read(data: DataConfig, loss: LossConfig, seed: int) -> tuple[list[Group], list[Group], Report]:
    """Training groups, dev groups, and the report on the training side.

    Raises:
        ImplicitPRMError: wrong rows, or nothing left to train on.
    """
    groups = load_groups(data.train, data.train_split, data.revision)
    dev = load_groups(data.dev, data.dev_split, data.revision) if data.dev else []
    if data.hold_out_prompts:
        if data.hold_out_prompts >= len(groups):
            raise ImplicitPRMError(
                f"data.hold_out_prompts={data.hold_out_prompts} leaves none of {len(groups)} prompts"
            )
        shuffled = random.Random(seed).sample(groups, len(groups))
        dev, groups = shuffled[: data.hold_out_prompts], shuffled[data.hold_out_prompts :]
    groups = groups[: data.max_prompts]
    if data.max_responses is not None:
        groups = take_responses(groups, data.max_responses, seed)
    report = Report.of(groups)
    groups = balance(groups, getattr(loss, "balance", "none"), seed, report)
    if loss.needs_pairs:
        groups = [group for group in groups if is_mixed(group)]
    if not groups:
        raise ImplicitPRMError(
            f"{data.train}: nothing to train on with loss={loss.name}: " + "; ".join(report.lines(loss.needs_pairs))
        )
    return groups, dev, report


def encode(
    groups: Sequence[Group], encoder: Encoder, limit: int | None, too_long: str, say: Callable[[str], None]
) -> list[EncodedGroup]:
    """Token ids of all groups. Responses over `limit` tokens stop the run or are left out and counted.

    Raises:
        ImplicitPRMError: too long with `too_long="error"`, or no response left.
    """
    encoded = [encoder.group(group) for group in groups]
    if limit is None:
        return encoded
    over = [(n, place, size) for n, g in enumerate(encoded) for place, size in enumerate(g.lengths) if size > limit]
    if not over:
        return encoded
    n, place, size = max(over, key=lambda entry: entry[2])
    message = (
        f"{len(over)} responses are longer than {limit} tokens with their prompt (the longest: {encoded[n].name}, "
        f"response {place}, {size} tokens)"
    )
    if too_long == "error":
        raise ImplicitPRMError(f"{message}. Set data.too_long=drop to leave them out, or raise data.max_length")
    say(f"left out: {message}")
    gone = {(n, place) for n, place, _ in over}
    kept = [
        EncodedGroup(
            g.name,
            g.prompt_ids,
            [response for place, response in enumerate(g.responses) if (n, place) not in gone],
            [label for place, label in enumerate(g.labels) if (n, place) not in gone],
        )
        for n, g in enumerate(encoded)
    ]
    kept = [group for group in kept if group.responses]
    if not kept:
        raise ImplicitPRMError(f"no response fits in {limit} tokens; raise data.max_length")
    return kept


def training_arguments(config: TrainConfig) -> TrainingArguments:
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
    defaults = {"dataloader_pin_memory": torch.cuda.is_available(), "ddp_find_unused_parameters": False}
    options = defaults | config.trainer
    try:
        return TrainingArguments(output_dir=config.output_dir, **options)
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ImplicitPRMError(f"trainer: {str(error).strip()}") from error


def _wandb_offline_without_a_key(say: Callable[[str], None]) -> None:
    """wandb asks for a login where there is no key, which an unattended run cannot answer."""
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        known = netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        known = False
    if not known and "WANDB_API_KEY" not in os.environ and "WANDB_MODE" not in os.environ:
        os.environ["WANDB_MODE"] = "offline"
        say("wandb: no API key, so the run is logged offline (`wandb sync` uploads it later)")


def _with_pairs(groups: list[EncodedGroup], say: Callable[[str], None]) -> list[EncodedGroup]:
    """The groups that still have both kinds of responses after long ones were left out."""
    mixed = [group for group in groups if len(set(group.labels)) > 1]
    if len(mixed) < len(groups):
        say(f"left out: {len(groups) - len(mixed)} prompts whose responses of one kind were all too long")
    if not mixed:
        raise ImplicitPRMError("no correct-incorrect pair fits; raise data.max_length")
    return mixed


def _settings(config: TrainConfig, model: ModelConfig, encoder: Encoder, groups: Sequence[Group]) -> Settings:
    """What is saved with every checkpoint. `model` is as resolved: its start opens by itself."""
    lora = model.lora is not None
    reference, revision = model.reference, model.reference_revision
    if reference == "initial":
        reference, revision = (ADAPTER_OFF, None) if lora else (model.name, model.revision)
    names = {f.name for f in fields(TextConfig)}
    packages = ("implicit-prm", "torch", "transformers", *(["peft"] if lora else []))
    return Settings(
        beta=model.beta,
        reference=starting.absolute(reference),
        reference_revision=revision,
        base=starting.absolute(model.name) if lora else None,
        base_revision=model.revision if lora else None,
        quantization=model.quantization,
        lora=asdict(model.lora) if model.lora is not None else None,
        start=starting.absolute(config.model.name),
        start_revision=config.model.revision,
        text=TextConfig(**{name: value for name, value in asdict(config.data).items() if name in names}),
        template_hash=encoder.template_hash,
        loss=asdict(config.loss),
        data_fingerprint=fingerprint(groups),
        versions={package: version(package) for package in packages},
    )
