"""One training run of an explicit reward model: outcome reward models and process reward models with step labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from transformers import TrainingArguments

from implicit_prm.baselines.layouts import Layout, choose_tokens
from implicit_prm.baselines.lora import with_lora
from implicit_prm.baselines.trainer import RewardModelTrainer
from implicit_prm.config import BaselineConfig, CEConfig, StepTokens, from_mapping
from implicit_prm.data.encoded_sets import EncodedSet, EncodedSets, Encoding
from implicit_prm.data.tokenization import EncodedGroup, Encoder, context_length
from implicit_prm.data.training_set import GradedSet
from implicit_prm.models import forward, loading
from implicit_prm.models.checkpoint import BaselineMetadata
from implicit_prm.models.source import ModelSource
from implicit_prm.training import GroupDataset, initial_model
from implicit_prm.training.arguments import compile_options
from implicit_prm.training.model_card import Run
from implicit_prm.training.prepare import Say, recorded
from implicit_prm.training.run import Prepared, run_training
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.lock import locked

# Every group is of use, as it is for the loss that needs no pairs.
_ALL_GROUPS = CEConfig()


def fit(config: BaselineConfig, say: Say = print, command: str | None = None) -> dict[str, float]:
    """Train an explicit reward model and save it in `config.output_dir`: a plain model, and baseline.json.

    Args:
        say: prints a line of progress; by default to the terminal.
        command: the command line that started the run, for run.json.

    Returns:
        The final metrics: training loss and seconds, and the dev metrics if there is a dev set.

    Raises:
        ImplicitPRMError: invalid options, data or model, before the first step; step labels without a
            `step_label_source`.
    """
    config = from_mapping(BaselineConfig, asdict(config))  # validate a config made in Python like one from YAML
    with locked(config.output_dir, inside=True):
        run = run_training(config, _ALL_GROUPS, _prepare, BaselineMetadata.read, say, command)
        if run.trainer.is_world_process_zero():
            Run(command, asdict(config), {}, run.metrics).write(config.output_dir)
        return run.metrics


def _prepare(config: BaselineConfig, arguments: TrainingArguments, checkpoint: str | None, say: Say) -> Prepared:
    """The model with its head, its metadata and its trainer."""
    model_source = ModelSource.of(config.model)
    encoder = Encoder(loading.open_tokenizer(model_source), config.data.text)
    model_config = loading.open_config(model_source)
    tokens = config.tokens
    if config.kind == "next_token" and tokens is None:
        tokens = choose_tokens(encoder, model_config.get_text_config().vocab_size)

    def open_model() -> Any:
        head: loading.Head = "causal_lm" if config.kind == "next_token" else "new_value"
        model: Any = loading.open_model(model_source, config.model.dtype, config.model.attn_implementation, head=head)
        forward.disable_dropout(model)
        return model if config.model.lora is None else with_lora(model, config.model.lora, head != "causal_lm")

    def make_trainer(model: Any, sets: EncodedSets) -> RewardModelTrainer:
        metadata = _metadata(config, encoder, sets["train"], tokens)
        if checkpoint is not None:
            metadata.check_same_run(checkpoint, config.output_dir)
        say(_target_line(config, metadata.label_source, sets["train"].groups))
        datasets = {name: GroupDataset(one.groups, step_labels=True) for name, one in sets.items()}
        compiled = compile_options(config.trainer)
        if compiled is not None:
            forward.compile_blocks(model, **compiled)
        return RewardModelTrainer(
            model=model,
            args=arguments,
            metadata=metadata,
            max_tokens=config.max_tokens_per_batch,
            train_dataset=datasets["train"],
            eval_dataset=datasets.get("dev"),
            processing_class=encoder.tokenizer,
        )

    return Prepared(encoder, _encoding(config, encoder, model_config, tokens), open_model, make_trainer)


def _encoding(config: BaselineConfig, encoder: Encoder, model_config: Any, tokens: StepTokens | None) -> Encoding:
    layout = Layout(encoder, config.kind, tokens, config.targets)
    with_labels = config.targets != "outcome"
    return Encoding(
        layout.group,
        f"{encoder.identity} {config.kind} {layout.separator} {config.targets}",
        context_length(model_config, config.data.max_length),
        config.data.too_long,
        needs_pairs=False,
        step_labels=with_labels,
        check=(lambda sets: label_source(sets.values())) if with_labels else (lambda _: None),
    )


def label_source(sets: Iterable[GradedSet]) -> str:
    """The source of the step labels (`step_label_source`).

    Raises:
        ImplicitPRMError: a response has no step labels, or labels without a source: the sandbox's rollouts hold true
            labels, for evaluation, which must not be trained on by accident. Or sources are mixed.
    """
    found: dict[str, str] = {}
    for graded in sets:
        for group in graded.groups:
            if group.step_labels is None:
                raise ImplicitPRMError(f"{graded.source}: {group.id} has no step_labels; make them with `ipr-label`")
            if group.step_label_source is None:
                raise ImplicitPRMError(
                    f"{graded.source}: the step labels of {group.id} have no source (column step_label_source). "
                    "ipr-rollout writes true labels for the sandbox, for evaluation only. Make labels with `ipr-label` "
                    "(with method=exact they are the true ones)"
                )
            found[group.step_label_source] = group.id
    if len(found) > 1:
        raise ImplicitPRMError(
            f"step labels of several sources: {', '.join(f'{name} ({where})' for name, where in found.items())}; train "
            "on those of one"
        )
    return next(iter(found))


def _metadata(
    config: BaselineConfig, encoder: Encoder, train: EncodedSet, tokens: StepTokens | None
) -> BaselineMetadata:
    encoder = recorded(encoder, train.report)
    return BaselineMetadata(
        kind=config.kind,
        labels=config.targets,
        label_source=None if config.targets == "outcome" else train.step_label_source,
        tokens=tokens,
        start=initial_model.absolute(config.model.name),
        start_revision=config.model.revision,
        lora=None if config.model.lora is None else asdict(config.model.lora),
        text=encoder.text,
        template_hash=encoder.template_hash,
        data_fingerprint=train.fingerprint,
        versions={package: version(package) for package in ("implicit-prm", "torch", "transformers")},
    )


def _target_line(config: BaselineConfig, source: str | None, groups: Sequence[EncodedGroup]) -> str:
    targets = [target for group in groups for one in group.responses for target in one.step_labels or []]
    known = [target for target in targets if target == target]
    if not known:
        raise ImplicitPRMError("no step has a label; every entry of step_labels is null")
    what = "outcomes" if source is None else f"{config.targets} step labels by {source}"
    return f"{config.kind}: {len(known):,} labelled positions, {what}, mean {sum(known) / len(known):.1%}"
