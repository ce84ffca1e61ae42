"""From a `BaselineConfig` to a trained explicit reward model: read, check, report, open, train, save."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from implicit_prm.baselines.checkpoint import BaselineSettings
from implicit_prm.baselines.layouts import Layout, choose_tokens
from implicit_prm.baselines.trainer import LabelledGroups, RewardModelTrainer
from implicit_prm.config import BaselineConfig, CEConfig, TextConfig, from_mapping
from implicit_prm.data import training_set
from implicit_prm.data.data_report import table
from implicit_prm.data.groups import fingerprint
from implicit_prm.data.tokenization import EncodedGroup, Encoder, context_length
from implicit_prm.data.training_set import GradedSet
from implicit_prm.models import forward, loading
from implicit_prm.models.checkpoint import BASELINE_FILE
from implicit_prm.training import JsonLog, initial_model, resume
from implicit_prm.training.model_card import RUN_FILE, Run
from implicit_prm.training.run import (
    compile_blocks,
    step_line,
    training_arguments,
    wandb_offline_without_a_key,
    warn_of_warmup,
)
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.distributed import spoken_once
from implicit_prm.utils.io import write_json

# Which groups are of use: all of them, as with the loss that needs no pairs.
_ALL_GROUPS = CEConfig()


def fit(config: BaselineConfig, say: Callable[[str], None] = print, command: str | None = None) -> dict[str, float]:
    """Train as configured and leave the checkpoint in `config.output_dir`: a plain model, and baseline.json.

    Args:
        command: how the run was started, for run.json.

    Returns:
        The final metrics: training loss and seconds, and the dev metrics where there is a dev set.

    Raises:
        ImplicitPRMError: anything wrong with options, data or model, before the first step; step labels among the data
            that do not say who made them (`step_label_source`).
    """
    config = from_mapping(BaselineConfig, asdict(config))  # a config made in Python is checked like one from YAML
    arguments, say = training_arguments(config), spoken_once(say)
    checkpoint = resume.to_resume(config, arguments, say, BaselineSettings.read)
    set_seed(arguments.seed)

    train, dev = training_set.read(config.data, _ALL_GROUPS, arguments.seed)
    sets = {"train": train} | ({"dev": dev} if dev else {})
    source = None if config.targets == "outcome" else label_source(sets.values())
    tokenizer = loading.open_tokenizer(config.model)
    encoder = Encoder(tokenizer, config.data)
    head: loading.Head = "causal_lm" if config.kind == "next_token" else "new_value"
    model: Any = loading.open_model(config.model, head=head)
    forward.disable_dropout(model)
    loading.check_embeds(model, encoder)
    settings = _settings(config, encoder, train, source, model.config.get_text_config().vocab_size)
    if checkpoint is not None:
        settings.check_same_run(checkpoint)
    layout = Layout(encoder, config.kind, settings.tokens, config.targets)
    limit = context_length(model.config, config.data.max_length)
    main = arguments.process_index == 0
    encoded = {
        name: training_set.encode(graded, layout.group, limit, config.data.too_long, progress=main and name == "train")
        for name, graded in sets.items()
    }
    for line in table({name: graded.report for name, graded in sets.items()}):
        say(line)
    say(_target_line(config, source, encoded["train"]))
    groups = encoded["train"]
    say(step_line(arguments, arguments.world_size, sum(len(group.responses) for group in groups) / len(groups)))
    if model.dtype in (torch.bfloat16, torch.float16):
        say(f"model.dtype: weights in {model.dtype} round away updates of a small learning rate; use float32")
    if main:
        training_set.write_report(Path(config.output_dir) / "data_report.json", sets)

    compile_blocks(config, model)
    trainer = RewardModelTrainer(
        model=model,
        args=arguments,
        settings=settings,
        max_tokens=config.max_tokens_per_batch,
        train_dataset=LabelledGroups(groups),
        eval_dataset=LabelledGroups(encoded["dev"]) if dev else None,
        processing_class=tokenizer,
        callbacks=[JsonLog(str(Path(config.output_dir) / "log.jsonl"))],
    )
    if "wandb" in (arguments.report_to or ()):
        wandb_offline_without_a_key(say)
    metrics = dict(trainer.train(resume_from_checkpoint=checkpoint).metrics)
    warn_of_warmup(arguments, trainer.state.global_step, say)
    if dev:
        metrics |= trainer.evaluate()
    if trainer.is_world_process_zero():  # until all is saved, the folder holds no finished model
        (Path(config.output_dir) / BASELINE_FILE).unlink(missing_ok=True)
    trainer.save_model()
    if trainer.is_world_process_zero():
        write_json(Path(config.output_dir) / "train_metrics.json", metrics)
        write_json(Path(config.output_dir) / RUN_FILE, asdict(Run(command, asdict(config), {}, metrics)))
    return metrics


def label_source(sets: Iterable[GradedSet]) -> str:
    """Who made the step labels.

    Raises:
        ImplicitPRMError: there are none, or they do not say: the sandbox's rollouts hold the truth about every step, to
            measure with, and training on it must not happen by accident. Or several sources are mixed.
    """
    found: dict[str, str] = {}
    for graded in sets:
        for group in graded.groups:
            if group.step_labels is None:
                raise ImplicitPRMError(f"{graded.source}: {group.id} has no step_labels; make them with `ipr-label`")
            if group.step_label_source is None:
                raise ImplicitPRMError(
                    f"{graded.source}: the step labels of {group.id} do not say who made them (column "
                    "step_label_source). What ipr-rollout writes for the sandbox is the truth, kept to measure with. "
                    "Make labels with `ipr-label`, method=exact to train on the truth openly"
                )
            found[group.step_label_source] = group.id
    if len(found) > 1:
        raise ImplicitPRMError(
            f"step labels of several makers: {', '.join(f'{name} ({where})' for name, where in found.items())}; train "
            "on those of one"
        )
    return next(iter(found))


def _settings(
    config: BaselineConfig, encoder: Encoder, train: GradedSet, source: str | None, embedded: int
) -> BaselineSettings:
    names = {f.name for f in fields(TextConfig)}
    tokens = config.tokens
    if config.kind == "next_token" and tokens is None:
        tokens = choose_tokens(encoder, embedded)
    return BaselineSettings(
        kind=config.kind,
        labels=config.targets,
        label_source=source,
        tokens=tokens,
        start=initial_model.absolute(config.model.name),
        start_revision=config.model.revision,
        text=TextConfig(**{name: value for name, value in asdict(config.data).items() if name in names}),
        template_hash=encoder.template_hash,
        data_fingerprint=fingerprint(train.groups, step_labels=source is not None),
        versions={package: version(package) for package in ("implicit-prm", "torch", "transformers")},
    )


def _target_line(config: BaselineConfig, source: str | None, groups: Sequence[EncodedGroup]) -> str:
    targets = [target for group in groups for one in group.responses for target in one.targets]  # type: ignore[attr-defined]
    known = [target for target in targets if target == target]
    if not known:
        raise ImplicitPRMError("no position has a label; is every step label null?")
    what = "outcomes" if source is None else f"{config.targets} step labels by {source}"
    return f"{config.kind}: {len(known):,} positions to read, {what}, {sum(known) / len(known):.1%} good in the mean"
