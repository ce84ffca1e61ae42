"""The steps from graded groups and an opened model to the datasets of a trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from transformers import TrainingArguments

from implicit_prm.config import LossConfig
from implicit_prm.data import training_set
from implicit_prm.data.data_report import table
from implicit_prm.data.groups import fingerprint
from implicit_prm.data.tokenization import EncodedGroup, Encoder
from implicit_prm.data.training_set import GradedSet
from implicit_prm.models.checkpoint import ADAPTER_OFF, CheckpointMetadata
from implicit_prm.training.arguments import step_line
from implicit_prm.training.batches import GroupDataset
from implicit_prm.training.initial_model import InitialModel, absolute
from implicit_prm.types import Group

Say = Callable[[str], None]
GradedSets = Mapping[str, GradedSet]  # "train", and "dev" if there is a dev set
EncodedSets = Mapping[str, list[EncodedGroup]]


def encode_sets(
    sets: GradedSets,
    encode_group: Callable[[Group], EncodedGroup],
    loss: LossConfig,
    limit_tokens: int | None,
    too_long: str,
    progress: bool,
) -> EncodedSets:
    """Encode the groups of all sets; what is left out for its length is counted in the sets' reports.

    Args:
        sets: the graded groups.
        encode_group: a group's token ids and labels.
        loss: whether a training group needs a correct-incorrect pair.
        limit_tokens: of prompt and response together.
        too_long: `error` or `drop`.
        progress: show the progress of the training set.
    """
    return {
        name: training_set.encode(
            graded,
            encode_group,
            limit_tokens,
            too_long,
            needs_pairs=loss.needs_pairs and name == "train",
            progress=progress and name == "train",
        )
        for name, graded in sets.items()
    }


def report_sets(
    sets: GradedSets, loss: LossConfig, train: list[EncodedGroup], arguments: TrainingArguments, say: Say
) -> None:
    """Print what will be trained on: a table of the sets, and the size of an optimiser step."""
    for line in table({name: graded.report for name, graded in sets.items()}, loss.needs_pairs):
        say(line)
    responses = sum(len(group.responses) for group in train) / len(train)
    say(step_line(arguments, arguments.world_size, responses, loss.single_responses))


def group_datasets(encoded: EncodedSets, loss: LossConfig, limit_tokens: int | None) -> dict[str, GroupDataset]:
    """The encoded sets as the loss reads them, without reference log-probabilities yet."""
    mismatched = loss.name == "kto" and not loss.needs_pairs
    return {
        name: GroupDataset(groups, mismatched, limit_tokens, loss.needs_step_labels) for name, groups in encoded.items()
    }


def checkpoint_metadata(
    initial: InitialModel,
    start: tuple[str, str | None],
    lora: dict[str, Any] | None,
    encoder: Encoder,
    loss: LossConfig,
    train: GradedSet,
    max_length: int | None,
) -> CheckpointMetadata:
    """The metadata of every checkpoint of a run.

    Args:
        initial: the resolved model.
        start: name and revision of the model as the user gave them.
        lora: options of a new adapter; None if all weights are trained.
        encoder: the text handling.
        loss: the loss with its options.
        train: the training set, for its fingerprint.
        max_length: limit of prompt and response together, as the user gave it.
    """
    model = initial.config
    assert model.beta is not None  # resolved
    reference, revision = model.reference, model.reference_revision
    if reference == "initial":
        reference, revision = (ADAPTER_OFF, None) if lora is not None else (model.name, model.revision)
    packages = ("implicit-prm", "torch", "transformers", *(["peft"] if lora is not None else []))
    return CheckpointMetadata(
        beta=model.beta,
        reference=absolute(reference),
        reference_revision=revision,
        base=absolute(model.name) if lora is not None else None,
        base_revision=model.revision if lora is not None else None,
        quantization=model.quantization,
        lora=lora,
        start=absolute(start[0]),
        start_revision=start[1],
        text=encoder.text,
        max_length=max_length,
        template_hash=encoder.template_hash,
        loss=asdict(loss),
        data_fingerprint=fingerprint(train.groups, loss.needs_step_labels),
        versions={package: version(package) for package in packages},
    )
