"""The steps from graded groups and an opened model to the datasets of a trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from typing import Any

from transformers import TrainingArguments

from implicit_prm.config import LossConfig, TextConfig
from implicit_prm.data.data_report import Report, table
from implicit_prm.data.encoded_sets import EncodedSet, EncodedSets, Encoding, encode_sets
from implicit_prm.data.tokenization import Encoder
from implicit_prm.data.training_set import UnreadSets
from implicit_prm.models.checkpoint import ADAPTER_OFF, CheckpointMetadata
from implicit_prm.training.arguments import step_line
from implicit_prm.training.batches import GroupDataset
from implicit_prm.training.initial_model import InitialModel, absolute

Say = Callable[[str], None]


def load_sets(
    sets: UnreadSets,
    encoding: Encoding,
    arguments: TrainingArguments,
    *,
    cache: str | None,
    num_proc: int | None,
    say: Say,
) -> EncodedSets:
    """Read and encode all sets, or open them if they are kept encoded.

    Args:
        sets: what to read.
        encoding: how to encode it.
        arguments: the trainer's, for the rank of this process.
        cache: folder where large sets are kept, `default`, or None.
        num_proc: processes that encode a large set; None for the default.
        say: prints a line.
    """
    return encode_sets(
        sets,
        encoding,
        folder=cache,
        num_proc=num_proc,
        first=arguments.process_index == 0,
        local_first=arguments.local_process_index == 0,
        say=say,
    )


def outcome_encoding(encoder: Encoder, loss: LossConfig, limit_tokens: int | None, too_long: str) -> Encoding:
    """How the groups of an implicit PRM become token ids.

    Args:
        encoder: the text handling.
        loss: whether it needs pairs and step labels.
        limit_tokens: of prompt and response together.
        too_long: what to do with longer responses: error or drop.
    """
    encode_group = partial(encoder.group, step_labels=loss.needs_step_labels)
    return Encoding(encode_group, encoder.identity, limit_tokens, too_long, loss.needs_pairs, loss.needs_step_labels)


def report_sets(sets: EncodedSets, loss: LossConfig, arguments: TrainingArguments, say: Say) -> None:
    """Print what will be trained on: a table of the sets, and the size of an optimiser step."""
    for line in table({name: graded.report for name, graded in sets.items()}, loss.needs_pairs):
        say(line)
    used = sets["train"].report.used
    responses = used["responses"] / used["prompts"]
    say(step_line(arguments, arguments.world_size, responses, loss.single_responses))
    template = sets["train"].report.prompt_template
    if template is not None:
        say(f"prompt template of the chats, recorded for bare problems unless another is set: {template!r}")


def recorded(encoder: Encoder, report: Report) -> Encoder:
    """The text handling to record with a checkpoint.

    Prompts that are chats hold their template already. It is recorded, unless the user gives another, so that a bare
    problem becomes the same prompt as in training.

    Args:
        encoder: the text handling of the run.
        report: of its training set.
    """
    text = encoder.text
    given = text.prompt_template != TextConfig.prompt_template or text.system_prompt is not None
    if given or report.prompt_template is None:
        return encoder
    return Encoder(
        encoder.tokenizer,
        replace(text, prompt_template=report.prompt_template, system_prompt=report.system_prompt),
    )


def group_datasets(encoded: EncodedSets, loss: LossConfig, limit_tokens: int | None) -> dict[str, GroupDataset]:
    """The encoded sets as the loss reads them, without reference log-probabilities yet."""
    mismatched = loss.name == "kto" and not loss.needs_pairs
    return {
        name: GroupDataset(one.groups, mismatched, limit_tokens, loss.needs_step_labels)
        for name, one in encoded.items()
    }


def checkpoint_metadata(
    initial: InitialModel,
    start: tuple[str, str | None],
    lora: dict[str, Any] | None,
    encoder: Encoder,
    loss: LossConfig,
    train: EncodedSet,
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
    encoder = recorded(encoder, train.report)
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
        data_fingerprint=train.fingerprint,
        versions={package: version(package) for package in packages},
    )
