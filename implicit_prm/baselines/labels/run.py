"""Label the steps of graded responses, write rows as they come, and go on after an interruption: `ipr-label`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from implicit_prm.config import AutoPSVConfig, ExactConfig, LabelConfig, MathShepherdConfig, from_mapping
from implicit_prm.data.groups import fingerprint, load_groups
from implicit_prm.rewards.step_splitting import split_steps
from implicit_prm.rollouts.provenance import Provenance, now
from implicit_prm.sandbox import check_steps
from implicit_prm.sandbox.world import true_solution
from implicit_prm.types import Group, ImplicitPRMError, Problem, TokenCounts
from implicit_prm.utils.io import JsonLines
from implicit_prm.utils.progress import progress

Say = Callable[[str], None]


@dataclass(frozen=True)
class Labelled:
    """A group's step labels, what it took to make them, and columns of the method's own."""

    group: Group
    labels: list[list[float]]
    tokens: TokenCounts
    columns: dict[str, Any] = field(default_factory=dict)


class Labeller(Protocol):
    """A way to label steps. `identity` is what a run that goes on must share, as far as options do not say it."""

    identity: dict[str, Any]

    def label(self, groups: Sequence[Group], done: Container[str]) -> Iterator[Labelled]:
        """The labels of the groups that are not `done`, in order."""
        ...


def label(config: LabelConfig, say: Say = print) -> Path:
    """Write the rows of `config.input` with `step_labels` and `step_label_source` to `config.output` (JSON lines).

    Rows are written whole as they come, each with the tokens it took (`step_label_tokens`), and an interrupted run goes
    on behind them: the file is then what an uninterrupted run would have written. `<output>.meta.json` records how it
    was made; other settings or data are refused.

    Returns:
        The path of the file.

    Raises:
        ImplicitPRMError: bad data or model, other settings than the file was started with, steps that do not fit.
    """
    config = from_mapping(type(config), asdict(config))  # a config made in Python is checked like one from YAML
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ImplicitPRMError("ipr-label works in one process; launch one, on a part of the data each (max_prompts)")
    groups = load_groups(config.input, config.split, config.revision, limit=config.max_prompts, option="input")
    if len({group.id for group in groups}) < len(groups):
        raise ImplicitPRMError(f"{config.input}: the same prompt stands in several rows; give each row an id")
    output = JsonLines(config.output)
    rows, record = output.rows(), Provenance(output.path)
    settings = _settings(config, groups)
    if rows:
        record.check(settings)
    done = {row["id"] for row in rows}
    if len(done) == len(groups):
        say(f"{output.path}: all {len(groups)} prompts are there already")
    else:
        if done:
            say(f"{output.path}: going on behind {len(done)} prompts")
        labeller = LABELLERS[config.method](config)  # type: ignore[attr-defined]
        settings |= labeller.identity
        if rows:
            record.check(settings)
        record.begin(settings, now() | {"input": config.input}, not rows)
        started, total = time.perf_counter(), TokenCounts()
        with progress("labelling", len(groups) - len(done)) as advance:
            for labelled in labeller.label(groups, done):
                output.append(_row(labelled, settings["method"]))
                total += labelled.tokens
                advance(1)
        for line in _speed(total, time.perf_counter() - started):
            say(line)
        rows = output.rows()
    say(f"{output.path}: {_summary(rows, groups)}")
    return output.path


def _settings(config: LabelConfig, groups: Sequence[Group]) -> dict[str, Any]:
    """What a run that goes on must share, as far as the options say. What bounds memory alone may change."""
    free = ("output", "input", "split", "revision", "max_prompts", "max_tokens_per_batch")
    options = {name: value for name, value in asdict(config).items() if name not in free}
    return options | {"data": {"prompts": len(groups), "sha256": fingerprint(groups)}}


def _row(labelled: Labelled, source: str) -> dict[str, Any]:
    group = labelled.group
    row: dict[str, Any] = {
        "id": group.id,
        "prompt": group.prompt,
        "answer": group.answer,
        "completions": group.completions,
        "correctness": group.correctness,
        "finished": group.finished,
        **({"steps": group.steps} if group.steps is not None else {}),
        **group.extra,
        "step_labels": labelled.labels,
        "step_label_source": source,
        "step_label_tokens": asdict(labelled.tokens),
        **labelled.columns,
    }
    return row


class Exact:
    """The sandbox's checker: is the step right, given the ones before it? Others have nobody who knows."""

    def __init__(self, config: ExactConfig) -> None:
        self.identity: dict[str, Any] = {}

    def label(self, groups: Sequence[Group], done: Container[str]) -> Iterator[Labelled]:
        """Labels as the checker gives them, 1 for right and 0 for wrong."""
        for group in groups:
            if group.id in done:
                continue
            if not isinstance(group.prompt, str):
                raise ImplicitPRMError(f"{group.id}: method=exact knows the sandbox's plain problems, not chats")
            true_solution(Problem(group.id, group.prompt, ""))  # refuses what is no problem of the sandbox
            labels = [[float(right) for right in check_steps(group.prompt, text)] for text in group.completions]
            for place, (some, text) in enumerate(zip(labels, group.completions, strict=True)):
                if len(split_steps(text, "newline")) != len(some):
                    raise ImplicitPRMError(
                        f"{group.id}, response {place}: the checker's steps are not the response's lines; leave it out"
                    )
            yield Labelled(group, labels, TokenCounts())


def _math_shepherd(config: MathShepherdConfig) -> Labeller:
    from implicit_prm.baselines.labels.math_shepherd import (
        MathShepherd,  # opens a model that other methods have no use for
    )

    return MathShepherd(config)


def _autopsv(config: AutoPSVConfig) -> Labeller:
    from implicit_prm.baselines.labels.autopsv import AutoPSV

    return AutoPSV(config)


LABELLERS: dict[str, Callable[[Any], Labeller]] = {
    "math_shepherd": _math_shepherd,
    "autopsv": _autopsv,
    "exact": Exact,
}


def _speed(tokens: TokenCounts, seconds: float) -> list[str]:
    if not tokens.responses:
        return []
    return [
        f"this run: {tokens.responses:,} responses of {tokens.response_tokens:,} tokens behind {tokens.prompts:,} "
        f"prefixes in {seconds:,.0f} s, {tokens.responses / seconds:,.0f} responses/s"
    ]


def _summary(rows: Sequence[dict[str, Any]], groups: Sequence[Group]) -> str:
    """How many labels, how good, and how far they agree with the truth where the data has it."""
    labels = {row["id"]: row["step_labels"] for row in rows}
    flat = [one for group in groups for some in labels[group.id] for one in some]
    told = f"{len(flat):,} step labels, {sum(flat) / max(len(flat), 1):.1%} good in the mean"
    agree: list[bool] = []
    for group in groups:
        if group.step_labels is None or group.step_label_source is not None:
            continue
        for truth, some in zip(group.step_labels, labels[group.id], strict=True):
            if truth is None or len(truth) != len(some) or any(one not in (0, 1) for one in truth):
                continue
            # What follows the first wrong step is neither right nor wrong for sure.
            upto = truth.index(False) + 1 if False in truth else len(truth)
            agree += [bool(told) == (one > 0) for told, one in zip(truth[:upto], some[:upto], strict=True)]
    if not agree:
        return told
    share = sum(agree) / len(agree)
    return f"{told}; {share:.1%} of those up to the first wrong step agree with the true ones in the data"
