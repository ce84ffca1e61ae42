"""Read and encode the data of a training run. What is left out is counted by reason."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from implicit_prm.config import DataConfig, LossConfig
from implicit_prm.data.data_report import Report
from implicit_prm.data.groups import balance, is_mixed, labelled_responses, load_groups, subset, take_responses
from implicit_prm.data.readers import Source
from implicit_prm.data.tokenization import EncodedGroup
from implicit_prm.types import Group, ImplicitPRMError
from implicit_prm.utils.io import write_json
from implicit_prm.utils.progress import tracked

REPORT_FILE = "data_report.json"  # in the output folder of every run, before its first step


@dataclass
class GradedSet:
    """The training or the dev set: its source, its groups and their statistics.

    Attributes:
        options: prefix of option names in messages: `data.` for commands, nothing for `ImplicitPRMConfig`.
    """

    source: str
    split: str
    groups: list[Group]
    report: Report
    options: str = "data."


def read(data: DataConfig, loss: LossConfig, seed: int) -> tuple[GradedSet, GradedSet | None]:
    """The training set, and the dev set or None.

    Raises:
        ImplicitPRMError: a source that cannot be read, invalid rows, or nothing left to train on.
    """
    report, dev = Report(), None
    limit = None if data.max_prompts is None else data.max_prompts + data.hold_out_prompts
    groups = load_groups(
        data.train, data.train_split, data.revision, limit=limit, option="data.train", dropped=report.dropped
    )
    if data.dev:
        dev_report = Report()
        dev_groups = load_groups(
            data.dev, data.dev_split, data.dev_revision, option="data.dev", dropped=dev_report.dropped
        )
        dev = GradedSet(data.dev, data.dev_split, dev_groups, dev_report)
    elif data.hold_out_prompts:
        if data.hold_out_prompts >= len(groups):
            raise ImplicitPRMError(
                f"data.hold_out_prompts={data.hold_out_prompts} leaves none of {len(groups)} prompts"
            )
        shuffled = random.Random(seed).sample(groups, len(groups))
        groups, held_out = shuffled[data.hold_out_prompts :], shuffled[: data.hold_out_prompts]
        dev = GradedSet(data.train, data.train_split, held_out, Report())
    if dev is not None:
        dev.report.describe(dev.groups)
    if data.max_responses is not None:
        groups = take_responses(groups, data.max_responses, seed)
    report.describe(groups)
    if loss.needs_step_labels and dev is not None and data.dev:
        _check_step_labels(dev.groups, loss, f"data.dev={data.dev}")
    groups = _usable(groups, loss, seed, report, f"data.train={data.train}")
    return GradedSet(data.train, data.train_split, groups, report), dev


def from_rows(train: Source, dev: Source | None, loss: LossConfig, seed: int) -> tuple[GradedSet, GradedSet | None]:
    """The training set and the dev set of rows in memory, with every response of both.

    Args:
        train: a `datasets.Dataset` or a list of rows.
        dev: the same, or None.
        loss: which groups are of use.
        seed: of the responses that are left out to balance the labels.

    Raises:
        ImplicitPRMError: invalid rows, or nothing left to train on.
    """
    report, dev_set = Report(), None
    groups = load_groups(train, dropped=report.dropped)
    if dev is not None:
        dev_report = Report()
        dev_set = GradedSet("eval_dataset", "", load_groups(dev, dropped=dev_report.dropped), dev_report, "")
        dev_report.describe(dev_set.groups)
        if loss.needs_step_labels:
            _check_step_labels(dev_set.groups, loss, "eval_dataset")
    report.describe(groups)
    return GradedSet("train_dataset", "", _usable(groups, loss, seed, report, "train_dataset"), report, ""), dev_set


def _usable(groups: list[Group], loss: LossConfig, seed: int, report: Report, source: str) -> list[Group]:
    """The groups and responses that the loss can use; what is left out is counted in `report`."""
    groups = balance(groups, getattr(loss, "balance", "none"), seed, report.dropped)
    if loss.needs_step_labels:
        _check_step_labels(groups, loss, source)
        groups = _with_step_labels(groups, report)
    if loss.needs_pairs:
        groups = [group for group in groups if is_mixed(group)]
    if not groups:
        raise ImplicitPRMError(
            f"{source}: nothing to train on with loss={loss.name}: of {report.prompts} prompts, "
            f"{report.all_correct} have only correct responses and {report.all_incorrect} only incorrect ones"
        )
    return groups


def _check_step_labels(groups: list[Group], loss: LossConfig, source: str) -> None:
    if groups and not any(map(labelled_responses, groups)):
        raise ImplicitPRMError(
            f"{source}: no step labels, which loss={loss.name} learns from; add the column step_labels (for each "
            "response a list with a label for each step), or use another loss"
        )


def encode(
    graded: GradedSet,
    encode_group: Callable[[Group], EncodedGroup],
    limit: int | None,
    too_long: str,
    needs_pairs: bool = False,
    progress: bool = False,
) -> list[EncodedGroup]:
    """Encode all groups. Their lengths and the responses left out are added to the report.

    Args:
        graded: the groups to encode.
        encode_group: the `group` method of an `Encoder` or a `Layout`.
        limit: maximum length of prompt and response together, in tokens.
        too_long: what to do with longer ones: error or drop.
        needs_pairs: leave out prompts that have only correct or only incorrect responses left.
        progress: show progress; a CPU core encodes about 300,000 tokens per second.

    Raises:
        ImplicitPRMError: a response over the limit with `too_long="error"`, step labels that do not match the steps, or
            nothing left.
    """
    report, raise_limit = graded.report, f"raise {graded.options}max_length"
    encoded = [encode_group(group) for group in tracked(graded.groups, "encoding", progress)]
    report.measure(encoded)
    over = sum(size > limit for group in encoded for size in group.lengths) if limit is not None else 0
    if limit is not None and over:
        longest = max(encoded, key=lambda group: max(group.lengths))
        if too_long == "error":
            raise ImplicitPRMError(
                f"{graded.source}: {over} of {report.responses} responses are longer than {limit} tokens with their "
                f"prompt (the longest: {longest.name}, response {longest.lengths.index(max(longest.lengths))}, "
                f"{max(longest.lengths)} tokens). Set {graded.options}too_long=drop to leave them out. "
                f"The limit is {graded.options}max_length, or the model's context where that is smaller"
            )
        report.dropped[f"responses over {limit} tokens with the prompt"] += over
        kept = [group for group in (_within(group, limit) for group in encoded) if group.responses]
        report.dropped["prompts without a response that fits"] += len(encoded) - len(kept)
        encoded = kept
        if not encoded:
            raise ImplicitPRMError(f"{graded.source}: no response fits in {limit} tokens; {raise_limit}")
    if needs_pairs:
        mixed = [group for group in encoded if len(set(group.labels)) > 1]
        report.dropped["prompts without a pair that fits"] += len(encoded) - len(mixed)
        if not mixed:
            raise ImplicitPRMError(f"{graded.source}: no correct-incorrect pair fits; {raise_limit}")
        encoded = mixed
    report.count_used(encoded)
    return encoded


def _with_step_labels(groups: list[Group], report: Report) -> list[Group]:
    """The groups without the responses that have no step label; these are counted in the report."""
    kept = [subset(group, labelled_responses(group)) for group in groups]
    report.dropped["responses without a step label"] += sum(map(len, groups)) - sum(map(len, kept))
    return [group for group in kept if len(group)]


def _within(group: EncodedGroup, limit: int) -> EncodedGroup:
    kept = [place for place, size in enumerate(group.lengths) if size <= limit]
    responses, labels = [group.responses[place] for place in kept], [group.labels[place] for place in kept]
    return replace(group, responses=responses, labels=labels)


def write_report(path: str | Path, sets: Mapping[str, GradedSet]) -> None:
    """The reports as JSON, by the name of the set."""
    write_json(path, {name: {"source": s.source, "split": s.split, **s.report.as_dict()} for name, s in sets.items()})
