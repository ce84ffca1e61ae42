"""One training run, from a config to a checkpoint: read, open, encode, report, train, evaluate, save.

`run_training` serves implicit PRMs (`fit` below) and explicit reward models (`implicit_prm.baselines.run.fit`). Each
passes a function that prepares what differs: the model, how a group is encoded for it, and its trainer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments, set_seed

from implicit_prm.config import BaselineConfig, LossConfig, TrainConfig, from_mapping
from implicit_prm.data import training_set
from implicit_prm.data.data_report import table
from implicit_prm.data.encoded_sets import EncodedSets, Encoding, write_report
from implicit_prm.data.tokenization import Encoder, context_length
from implicit_prm.models import forward, loading
from implicit_prm.models.checkpoint import BASELINE_FILE, METADATA_FILE, NONE, CheckpointMetadata
from implicit_prm.training import hub, initial_model, model_card, resume
from implicit_prm.training.arguments import (
    compile_options,
    log_offline_without_wandb_key,
    training_arguments,
    warn_if_all_warmup,
)
from implicit_prm.training.checkpoint_errors import kept
from implicit_prm.training.group_trainer import GroupTrainer
from implicit_prm.training.log_ratio_trainer import LogRatioTrainer
from implicit_prm.training.metrics import final_evaluation
from implicit_prm.training.prepare import (
    Say,
    checkpoint_metadata,
    group_datasets,
    load_sets,
    outcome_encoding,
    report_sets,
)
from implicit_prm.training.reference_pass import add_reference_logprobs
from implicit_prm.utils.distributed import spoken_once
from implicit_prm.utils.io import write_json
from implicit_prm.utils.lock import locked

Config = TypeVar("Config", TrainConfig, BaselineConfig)


@dataclass(frozen=True)
class Prepared:
    """What differs between the kinds of runs.

    Attributes:
        encoder: the tokenizer and the text options.
        encoding: how the groups become token ids.
        open_model: opens the model, on the CPU or wherever its quantisation puts it.
        make_trainer: the trainer of that model on the encoded sets.
    """

    encoder: Encoder
    encoding: Encoding
    open_model: Callable[[], Any]
    make_trainer: Callable[[Any, EncodedSets], GroupTrainer]


@dataclass(frozen=True)
class Finished:
    """A run whose model is saved. `metrics` are the training loss and seconds, and the dev metrics."""

    trainer: GroupTrainer
    sets: EncodedSets
    metrics: dict[str, float]


# From config, arguments and the checkpoint to resume from (None for a new run).
Prepare = Callable[[Config, TrainingArguments, str | None, Say], Prepared]


def fit(config: TrainConfig, say: Say = print, command: str | None = None) -> dict[str, float]:
    """Train an implicit PRM and save its checkpoint in `config.output_dir`.

    Args:
        say: prints a line of progress; by default to the terminal.
        command: the command line that started the run, for the model card.

    Returns:
        The final metrics: training loss and seconds, and the dev metrics if there is a dev set.

    Raises:
        ImplicitPRMError: invalid options, data or models, before the first step; or, after the model was saved, a push
            to the hub that failed.
    """
    config = from_mapping(TrainConfig, asdict(config))  # validate a config made in Python like one from YAML
    if config.push_to_hub:
        hub.check_token(config.push_to_hub, config.trainer.get("hub_token"))
    with locked(config.output_dir, inside=True):
        return _fit(config, say, command)


def _fit(config: TrainConfig, say: Say, command: str | None) -> dict[str, float]:
    run = run_training(config, config.loss, _prepare, CheckpointMetadata.read, say, command)
    trainer = run.trainer
    if trainer.is_world_process_zero():
        assert isinstance(trainer, LogRatioTrainer)
        described = {
            name: [" ".join(line.split()) for line in table({name: graded.report}, config.loss.needs_pairs)[1:]]
            for name, graded in run.sets.items()
        }
        logs = [row for row in trainer.state.log_history if "rewards/margins" in row]
        last = {key: value for key, value in (logs or [{}])[-1].items() if key.startswith(("rewards/", "forward_kl"))}
        card = model_card.Run(command, asdict(config), described, run.metrics, last)
        model_card.write(config.output_dir, trainer.metadata, card, config.push_to_hub or config.output_dir)
        if config.push_to_hub:
            token = config.trainer.get("hub_token")
            hub.push(config.output_dir, config.push_to_hub, config.hub_private, say, token)
    return run.metrics


def run_training(
    config: Config,
    loss: LossConfig,
    prepare: Prepare,
    read_metadata: Callable[[Path], Any],
    say: Say,
    command: str | None = None,
) -> Finished:
    """Everything between a valid config and a saved model. Its options are written to run.json at the start.

    Args:
        loss: decides which groups are of use.
        prepare: opens the model and says how to encode and train.
        read_metadata: reads a checkpoint's metadata, and raises ImplicitPRMError for another kind of checkpoint.
        say: prints a line of progress.
        command: the command line that started the run, for run.json.

    Raises:
        ImplicitPRMError: invalid options, data or models, before the first step.
    """
    arguments, say = training_arguments(config), spoken_once(say)
    checkpoint = resume.find_checkpoint(config, arguments, say, read_metadata)
    if arguments.process_index == 0:
        model_card.Run(command, asdict(config), {}).write(config.output_dir)
    set_seed(arguments.seed)
    unread = training_set.unread(config.data, loss, arguments.seed)
    prepared = prepare(config, arguments, checkpoint, say)
    sets = load_sets(
        unread, prepared.encoding, arguments, cache=config.data.cache, num_proc=config.data.num_proc, say=say
    )
    report_sets(sets, loss, arguments, say)
    if arguments.process_index == 0:
        write_report(Path(config.output_dir) / training_set.REPORT_FILE, sets)
    model = prepared.open_model()
    loading.check_embeds(model, prepared.encoder)
    _warn_of_half_precision(model, say)
    trainer = prepared.make_trainer(model, sets)
    trainer.dev_fingerprint = sets["dev"].fingerprint if "dev" in sets else None
    log_offline_without_wandb_key(arguments, say)
    try:
        metrics = dict(trainer.train(resume_from_checkpoint=checkpoint).metrics)
    except KeyboardInterrupt:
        say(kept(config.output_dir, read_metadata))
        raise
    warn_if_all_warmup(arguments, trainer.state.global_step, say)
    if "dev" in sets:
        metrics |= final_evaluation(trainer, same_dev_set=trainer.same_dev_set)
    if trainer.is_world_process_zero():  # a folder without metadata holds no finished model
        for name in (METADATA_FILE, BASELINE_FILE):
            (Path(config.output_dir) / name).unlink(missing_ok=True)
    trainer.save_model()
    if trainer.is_world_process_zero():
        write_json(Path(config.output_dir) / "train_metrics.json", metrics)
    return Finished(trainer, sets, metrics)


def _warn_of_half_precision(model: Any, say: Say) -> None:
    """A small update of a bfloat16 weight rounds to nothing."""
    half = {p.dtype for p in model.parameters() if p.requires_grad} & {torch.bfloat16, torch.float16}
    if half:
        say(
            f"model.dtype: weights in {half.pop()} round away updates of a small learning rate; use "
            "model.dtype=float32, with trainer.bf16=true for speed"
        )


def _prepare(config: TrainConfig, arguments: TrainingArguments, checkpoint: str | None, say: Say) -> Prepared:
    """The policy, its metadata, and the trainer with the reference log-probabilities."""
    initial = initial_model.resolve(config.model, config.output_dir, arguments, checkpoint is not None, say)
    encoder = Encoder(loading.open_tokenizer(initial.source), config.data.text)
    loss, limit = config.loss, context_length(loading.open_config(initial.source), config.data.max_length)

    def make_trainer(policy: Any, sets: EncodedSets) -> LogRatioTrainer:
        lora = None if config.model.lora is None else asdict(config.model.lora)
        start = config.model.name, config.model.revision
        metadata = checkpoint_metadata(initial, start, lora, encoder, loss, sets["train"], config.data.max_length)
        if checkpoint is not None:
            metadata.check_same_run(checkpoint, config.output_dir)
        datasets = group_datasets(sets, loss, limit)
        if metadata.reference != NONE:
            add_reference_logprobs(
                initial,
                arguments,
                policy,
                encoder,
                list(datasets.values()),
                folder=None if config.reference_cache == "default" else config.reference_cache,
                max_tokens=config.max_tokens_per_batch,
            )
        compiled = compile_options(config.trainer)
        if compiled is not None:
            forward.compile_blocks(policy, **compiled)
        return LogRatioTrainer(
            model=policy,
            args=arguments,
            loss=loss,
            metadata=metadata,
            max_tokens=config.max_tokens_per_batch,
            train_dataset=datasets["train"],
            eval_dataset=datasets.get("dev"),
            processing_class=encoder.tokenizer,
        )

    encoding = outcome_encoding(encoder, loss, limit, config.data.too_long)
    return Prepared(encoder, encoding, partial(initial_model.open_initial_policy, initial, arguments), make_trainer)
