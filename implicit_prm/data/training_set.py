"""Read and encode the data of a training run. What is left out is counted by reason."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from implicit_prm.config import DataConfig, LossConfig
from implicit_prm.data.data_report import Report
from implicit_prm.data.groups import balance, is_mixed, labelled_responses, load_groups, subset, take_responses
from implicit_prm.data.readers import Source, content_of
from implicit_prm.data.tokenization import EncodedGroup
from implicit_prm.types import Group, ImplicitPRMError

_ROWS = {"train": "train_dataset", "dev": "eval_dataset"}  # names of rows in memory, in messages

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


GradedSets = Mapping[str, GradedSet]  # "train", and "dev" if there is a dev set


@dataclass(frozen=True)
class UnreadSets:
    """The sets of a run before they are read.

    Args:
        read: reads them; errors as for `read` and `from_rows`.
        sources: source and split of each set.
        identity: what they depend on; None if that is not known before they are read.
        size_bytes: of all sources together.
    """

    read: Callable[[], GradedSets]
    sources: Mapping[str, tuple[str, str]]
    identity: Mapping[str, Any] | None
    size_bytes: int


def unread(data: DataConfig, loss: LossConfig, seed: int) -> UnreadSets:
    """The sets that `read` reads.

    Raises:
        ImplicitPRMError: a source that cannot be found.
    """
    sources = {"train": (data.train, data.train_split)}
    if data.dev:
        sources["dev"] = data.dev, data.dev_split
    elif data.hold_out_prompts:
        sources["dev"] = sources["train"]

    def read_both() -> GradedSets:
        return _by_name(*read(data, loss, seed))

    if data.max_prompts is not None and not Path(data.train).expanduser().exists():
        return UnreadSets(read_both, sources, None, 0)  # only the first rows of a hub dataset are fetched
    contents = {"train": content_of(data.train, data.train_split, data.revision, "data.train")}
    if data.dev:
        contents["dev"] = content_of(data.dev, data.dev_split, data.dev_revision, "data.dev")
    options = (data.hold_out_prompts, data.max_prompts, data.max_responses)
    drawn = bool(data.hold_out_prompts) or data.max_responses is not None
    return UnreadSets(read_both, sources, *_identity(contents, options, loss, seed, drawn))


def unread_rows(train: Source, dev: Source | None, loss: LossConfig, seed: int) -> UnreadSets:
    """The sets that `from_rows` reads."""
    given = {"train": train} | ({} if dev is None else {"dev": dev})
    sources = {name: (_ROWS[name], "") for name in given}
    identity, size = _identity({name: content_of(rows) for name, rows in given.items()}, (), loss, seed, False)
    return UnreadSets(lambda: _by_name(*from_rows(train, dev, loss, seed)), sources, identity, size)


def _by_name(train: GradedSet, dev: GradedSet | None) -> GradedSets:
    return {"train": train} | ({} if dev is None else {"dev": dev})


def _identity(
    contents: Mapping[str, tuple[str, int]], options: tuple[Any, ...], loss: LossConfig, seed: int, drawn: bool
) -> tuple[dict[str, Any], int]:
    """What the sets depend on, and the size of their sources. The seed counts only if something is `drawn` with it."""
    balanced = getattr(loss, "balance", "none")
    identity = {
        **{name: digest for name, (digest, _) in contents.items()},
        "selection": [*options, balanced, loss.needs_pairs, loss.needs_step_labels],
        "seed": seed if drawn or balanced != "none" else None,
    }
    return identity, sum(size for _, size in contents.values())


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
        dev_set = GradedSet(_ROWS["dev"], "", load_groups(dev, dropped=dev_report.dropped), dev_report, "")
        dev_report.describe(dev_set.groups)
        if loss.needs_step_labels:
            _check_step_labels(dev_set.groups, loss, _ROWS["dev"])
    report.describe(groups)
    return GradedSet(_ROWS["train"], "", _usable(groups, loss, seed, report, _ROWS["train"]), report, ""), dev_set


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
) -> list[EncodedGroup]:
    """Encode all groups; arguments and errors as for `usable`."""
    return list(usable(map(encode_group, graded.groups), graded, limit, too_long, needs_pairs))


def usable(
    encoded: Iterable[EncodedGroup], graded: GradedSet, limit: int | None, too_long: str, needs_pairs: bool = False
) -> Iterator[EncodedGroup]:
    """The groups without responses that are too long. Lengths and what is left out are added to the report.

    Args:
        encoded: the groups of `graded`, encoded.
        graded: the set, for its report and for messages.
        limit: maximum length of prompt and response together, in tokens.
        too_long: what to do with longer ones: error or drop.
        needs_pairs: leave out prompts that have only correct or only incorrect responses left.

    Raises:
        ImplicitPRMError: at the end, a response over the limit with `too_long="error"`, or nothing left.
    """
    report = graded.report
    report.reset_used()
    prompts, responses = array("q"), array("q")
    over = without_response = without_pair = 0
    longest = (0, "")
    for group in encoded:
        prompts.append(len(group.prompt_ids))
        responses.extend(len(response.ids) for response in group.responses)
        if limit is not None and max(group.lengths) > limit:
            over += sum(size > limit for size in group.lengths)
            size = max(group.lengths)
            longest = max(
                longest, (size, f"{group.name}, response {group.lengths.index(size)}"), key=lambda one: one[0]
            )
            group = _within(group, limit)
        if not group.responses:
            without_response += 1
        elif needs_pairs and len(set(group.labels)) < 2:
            without_pair += 1
        else:
            report.count_used(group)
            yield group
    report.measure(prompts, responses)
    if over and too_long == "error":
        raise ImplicitPRMError(
            f"{graded.source}: {over} of {report.responses} responses are longer than {limit} tokens with their "
            f"prompt (the longest: {longest[1]}, {longest[0]} tokens). Set {graded.options}too_long=drop to leave them "
            f"out. The limit is {graded.options}max_length, or the model's context where that is smaller"
        )
    if over:
        report.dropped[f"responses over {limit} tokens with the prompt"] += over
        report.dropped["prompts without a response that fits"] += without_response
    if needs_pairs:
        report.dropped["prompts without a pair that fits"] += without_pair
    if not report.used["prompts"]:
        what = "correct-incorrect pair fits" if without_pair else f"response fits in {limit} tokens"
        raise ImplicitPRMError(f"{graded.source}: no {what}; raise {graded.options}max_length")


def _with_step_labels(groups: list[Group], report: Report) -> list[Group]:
    """The groups without the responses that have no step label; these are counted in the report."""
    kept = [subset(group, labelled_responses(group)) for group in groups]
    report.dropped["responses without a step label"] += sum(map(len, groups)) - sum(map(len, kept))
    return [group for group in kept if len(group)]


def _within(group: EncodedGroup, limit: int) -> EncodedGroup:
    kept = [place for place, size in enumerate(group.lengths) if size <= limit]
    responses, labels = [group.responses[place] for place in kept], [group.labels[place] for place in kept]
    return replace(group, responses=responses, labels=labels)
