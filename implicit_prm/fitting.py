"""From a `TrainConfig` to a trained checkpoint: read, check, report, open, train, save."""

from __future__ import annotations

import difflib
import netrc
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.parse import urlparse

import torch
from transformers import TrainingArguments, set_seed

from implicit_prm import backbone
from implicit_prm.config import ModelConfig, PolicyConfig, TextConfig, TrainConfig, convert, from_mapping
from implicit_prm.data import training_set
from implicit_prm.data.files import write_json
from implicit_prm.data.groups import fingerprint
from implicit_prm.data.report import table
from implicit_prm.data.tokens import Encoder, context_length
from implicit_prm.model import ADAPTER_OFF, NONE, SETTINGS_FILE, Settings
from implicit_prm.processes import processes
from implicit_prm.records import Group, ImplicitPRMError
from implicit_prm.reference import fill, open_cache
from implicit_prm.training import GroupDataset, ImplicitPRMTrainer, JsonLog

# TrainingArguments that this trainer could only ignore, or that would replace what it relies on.
_REFUSED = {
    "label_smoothing_factor": "the outcome losses have no smoothed form here",
    "use_liger_kernel": "it replaces the output head that log-probabilities are read from",
    "neftune_noise_alpha": "noise in the policy alone would be read as reward",
    "push_to_hub": "push the finished folder yourself (hf upload)",
    "dataloader_drop_last": "every prompt is trained on; the loss of a short last batch is its own mean",
    "include_num_input_tokens_seen": "a batch holds groups, whose tokens transformers does not see",
    "torch_empty_cache_steps": "memory is bounded by max_tokens_per_batch",
    "batch_eval_metrics": "the dev metrics need all prompts at once",
    "ddp_find_unused_parameters": "the output head is read outside of its own forward, so all would count as unused",
}


def fit(config: TrainConfig, say: Callable[[str], None] = print) -> dict[str, float]:
    """Train as configured and leave the checkpoint in `config.output_dir`.

    Returns:
        The final metrics: training loss and seconds, and the dev metrics where there is a dev set.

    Raises:
        ImplicitPRMError: anything wrong with options, data or models, before the first step.
    """
    config = from_mapping(TrainConfig, asdict(config))  # a config made in Python is checked like one from YAML
    arguments = training_arguments(config)
    resume = _resume(config, arguments)
    set_seed(arguments.seed)

    train, dev = training_set.read(config.data, config.loss, arguments.seed)
    tokenizer = backbone.open_tokenizer(config.model)
    encoder = Encoder(tokenizer, config.data)
    policy = backbone.open_model(config.model)
    limit = context_length(policy.config, config.data.max_length)
    mismatched = config.loss.name == "kto" and not config.loss.needs_pairs
    needs_pairs = config.loss.needs_pairs
    encoded = training_set.encode(train, encoder, limit, config.data.too_long, needs_pairs)
    settings = _settings(config, encoder, train.groups)
    if resume is not None:
        _check_same_run(resume, settings)
    encoded_dev = training_set.encode(dev, encoder, limit, config.data.too_long) if dev else None
    sets = {"train": train} | ({"dev": dev} if dev else {})
    for line in table({name: graded.report for name, graded in sets.items()}, needs_pairs):
        say(line)
    if arguments.process_index == 0:
        training_set.write_report(Path(config.output_dir) / "data_report.json", sets)

    if config.model.lora is None and policy.dtype in (torch.bfloat16, torch.float16):
        say(
            f"model.dtype: weights in {policy.dtype} round away updates of a small learning rate; use "
            "model.dtype=float32, with trainer.bf16=true for speed"
        )
    backbone.disable_dropout(policy)
    train_set = GroupDataset(encoded, mismatched, limit)
    dev_set = GroupDataset(encoded_dev, mismatched, limit) if encoded_dev else None
    if settings.reference != NONE:
        ask_reference(config, arguments, policy, tokenizer, [train_set, dev_set] if dev_set else [train_set])
    trainer = ImplicitPRMTrainer(
        model=_with_lora(policy, config.model),
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
        _wandb_offline_without_a_key(say)
    result = trainer.train(resume_from_checkpoint=resume)
    metrics = dict(result.metrics)
    if dev:
        metrics |= trainer.evaluate()
    trainer.save_model()
    if trainer.is_world_process_zero():
        write_json(Path(config.output_dir) / "train_metrics.json", metrics)
    return metrics


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
    defaults = {
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        "use_cpu": not torch.accelerator.is_available(),  # or several processes on a CPU would not find each other
    }
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


def _resume(config: TrainConfig, arguments: TrainingArguments) -> str | None:
    """The checkpoint to go on from; refuses to write over a finished model."""
    wanted = arguments.resume_from_checkpoint
    folder = Path(config.output_dir)
    finished, last = (folder / SETTINGS_FILE).exists(), _last_checkpoint(folder)
    if str(wanted).lower() in ("true", "auto") and (last or not finished):
        return last  # nothing there yet: start from the beginning
    if wanted and str(wanted).lower() not in ("true", "auto", "false", "none"):
        if not Path(wanted).is_dir():
            raise ImplicitPRMError(f"trainer.resume_from_checkpoint={wanted}: no such checkpoint")
        return str(wanted)
    if config.overwrite:
        _clear(folder, arguments)
    elif finished or last:
        go_on = "go on with trainer.resume_from_checkpoint=true, " if last else ""
        raise ImplicitPRMError(
            f"{config.output_dir} already holds {'a trained model' if finished else last}; give another output_dir, "
            f"{go_on}or start over with overwrite=true"
        )
    return None


def _last_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that was saved whole: the trainer's state is written last."""
    states = [path for path in folder.glob("checkpoint-*/trainer_state.json") if path.parent.name[11:].isdigit()]
    return str(max(states, key=lambda path: int(path.parent.name[11:])).parent) if states else None


def _check_same_run(checkpoint: str, settings: Settings) -> None:
    """Refuse to go on with another reward or other data than the checkpoint was trained with."""
    before = Settings.read(Path(checkpoint))
    for name in ("beta", "loss", "reference", "reference_revision", "text", "data_fingerprint"):
        then, now = getattr(before, name), getattr(settings, name)
        if then != now:
            raise ImplicitPRMError(
                f"{checkpoint} was trained with {name}={then}, now it is {now}; resume as it was "
                "started, or give another output_dir"
            )


def _clear(folder: Path, arguments: TrainingArguments) -> None:
    """Forget the old run's weights, which a later resume or reader would otherwise take for this run's."""
    with arguments.main_process_first(desc="clearing old checkpoints"):
        for old in folder.glob("checkpoint-*"):
            shutil.rmtree(old, ignore_errors=True)
        for old in (*folder.glob("*.safetensors*"), folder / backbone.ADAPTER_FILE, folder / SETTINGS_FILE):
            old.unlink(missing_ok=True)


def ask_reference(
    config: TrainConfig, arguments: TrainingArguments, policy: Any, tokenizer: Any, datasets: Sequence[GroupDataset]
) -> None:
    """Give `datasets` the reference's log-probabilities of all they hold, computed in the arithmetic of training.

    The starting weights are the reference unless another one is named, which is opened, asked and let go: training
    itself holds no second model.
    """
    model, device = config.model, arguments.device
    if model.reference == "initial":
        name, reference = model.name, policy
    else:
        name = model.reference
        backbone.check_same_tokens(tokenizer, name, model.reference_revision)
        reference = backbone.open_model(
            PolicyConfig(
                name, model.reference_revision, model.dtype, model.attn_implementation, model.trust_remote_code
            )
        )
        backbone.disable_dropout(reference)
    reference.to(device)
    folder = None if config.reference_cache == "default" else config.reference_cache
    budget = config.max_tokens_per_batch or backbone.token_budget(device)
    half = torch.bfloat16 if arguments.bf16 else torch.float16
    with processes() as state, torch.autocast(device.type, half, enabled=arguments.bf16 or arguments.fp16):
        cache = open_cache(reference, name, folder)
        requests = [request for dataset in datasets for request in dataset.requests()]
        fill(cache, reference, requests, budget, state.rank, state.size)
        state.gather(None)
    cache.refresh()
    for dataset in datasets:
        dataset.cache = cache


def _with_lora(policy: Any, model: ModelConfig) -> Any:
    if model.lora is None:
        return policy
    from peft import LoraConfig, get_peft_model

    lora = model.lora
    peft_config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
    try:
        return get_peft_model(policy, peft_config)
    except ValueError as error:
        raise ImplicitPRMError(f"model.lora: {error}") from error


def _absolute(name: str) -> str:
    """A local folder by its full path, so that the checkpoint opens from anywhere; a hub id as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _settings(config: TrainConfig, encoder: Encoder, groups: Sequence[Group]) -> Settings:
    model, lora = config.model, config.model.lora is not None
    reference, revision = model.reference, model.reference_revision
    if reference == "initial":
        reference, revision = (ADAPTER_OFF, None) if lora else (model.name, model.revision)
    names = {f.name for f in fields(TextConfig)}
    return Settings(
        beta=model.beta,
        reference=_absolute(reference),
        reference_revision=revision,
        base=_absolute(model.name) if lora else None,
        base_revision=model.revision if lora else None,
        text=TextConfig(**{name: value for name, value in asdict(config.data).items() if name in names}),
        template_hash=encoder.template_hash,
        loss=asdict(config.loss),
        data_fingerprint=fingerprint(groups),
        versions={package: version(package) for package in ("implicit-prm", "torch", "transformers")},
    )
