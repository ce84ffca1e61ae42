"""`ipr-label`: label the steps of graded responses, write rows as they finish, resume after an interruption."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from implicit_prm.baselines.labels.autopsv import AutoPSV
from implicit_prm.baselines.labels.exact import Exact
from implicit_prm.baselines.labels.labeller import LabelledGroup, Labeller
from implicit_prm.baselines.labels.math_shepherd import MathShepherd
from implicit_prm.config import LabelConfig, from_mapping
from implicit_prm.data.groups import fingerprint, load_groups
from implicit_prm.rollouts.provenance import Provenance, now
from implicit_prm.types import Group, ImplicitPRMError, TokenCounts
from implicit_prm.utils.io import JsonLines
from implicit_prm.utils.lock import locked
from implicit_prm.utils.progress import progress

Say = Callable[[str], None]

LABELLERS: dict[str, Callable[[Any], Labeller]] = {
    "math_shepherd": MathShepherd,
    "autopsv": AutoPSV,
    "exact": Exact,
}


def label(config: LabelConfig, say: Say = print) -> Path:
    """Write the rows of `config.input` with `step_labels` and `step_label_source` to `config.output` (JSON lines).

    Each row is written when it is finished, with the number of tokens its labels took (`step_label_tokens`). A run that
    was interrupted resumes after the last whole row, and the file ends up equal to that of an uninterrupted run.
    `<output>.meta.json` records how the file was made; resuming with other options or data is refused.

    Returns:
        The path of the file.

    Raises:
        ImplicitPRMError: invalid data or model, options that differ from those the file was started with, or steps
            that cannot be labelled.
    """
    config = from_mapping(type(config), asdict(config))  # a config made in Python is checked like one from YAML
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ImplicitPRMError("ipr-label runs in one process; to use several, give each a part of the data")
    with locked(config.output):
        return _label(config, say)


def _label(config: LabelConfig, say: Say) -> Path:
    groups = load_groups(config.input, config.split, config.revision, limit=config.max_prompts, option="input")
    if len({group.id for group in groups}) < len(groups):
        raise ImplicitPRMError(f"{config.input}: several rows have the same prompt; give each row an id")
    output = JsonLines(config.output)
    record = Provenance(output.path)
    record.check_ours()
    rows = output.rows()
    settings = _settings(config, groups)
    if rows:
        record.check(settings)
    if not all("id" in row for row in rows):
        raise ImplicitPRMError(f"{output.path}: a row has no id; restore the file, or choose another output")
    done = {row["id"] for row in rows}
    if len(done) == len(groups):
        say(f"{output.path}: all {len(groups)} prompts are labelled already")
    else:
        if done:
            say(f"{output.path}: resuming after {len(done)} prompts")
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
        if total.responses:
            say(_speed(total, time.perf_counter() - started))
        rows = output.rows()
    say(f"{output.path}: {_summary(rows, groups)}")
    return output.path


def _settings(config: LabelConfig, groups: Sequence[Group]) -> dict[str, Any]:
    """The options and data that a resumed run must share. Options that only bound memory may change."""
    free = ("output", "input", "split", "revision", "max_prompts", "max_tokens_per_batch")
    options = {name: value for name, value in asdict(config).items() if name not in free}
    if "policy" in options:
        del options["policy"]["kind"]  # servers are refused, so there is only one
    return options | {"data": {"prompts": len(groups), "sha256": fingerprint(groups)}}


def _row(labelled: LabelledGroup, source: str) -> dict[str, Any]:
    group = labelled.group
    return {
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


def _speed(tokens: TokenCounts, seconds: float) -> str:
    return (
        f"this run: {tokens.responses:,} responses to {tokens.prompts:,} prefixes, {tokens.response_tokens:,} tokens "
        f"in {seconds:,.0f} s, {tokens.responses / seconds:,.0f} responses/s"
    )


def _summary(rows: Sequence[dict[str, Any]], groups: Sequence[Group]) -> str:
    """The number of labels, their mean, and their agreement with the true labels where the input has them."""
    labels = {row["id"]: row["step_labels"] for row in rows}
    flat = [value for group in groups for response in labels[group.id] for value in response]
    summary = f"{len(flat):,} step labels, mean {sum(flat) / max(len(flat), 1):.1%}"
    agree = _agreement(groups, labels)
    if agree:
        summary += f"; {sum(agree) / len(agree):.1%} agree with the true labels up to the first wrong step"
    return summary


def _agreement(groups: Sequence[Group], labels: dict[str, list[list[float]]]) -> list[bool]:
    """For each step up to the first wrong one: does the label, rounded up, equal the true label?

    Later steps are left out: after a wrong step, correctness is not well defined.
    """
    agree: list[bool] = []
    for group in groups:
        if group.step_labels is None or group.step_label_source is not None:
            continue
        for truth, made in zip(group.step_labels, labels[group.id], strict=True):
            if truth is None or len(truth) != len(made) or not truth.is_hard:
                continue
            end = len(truth) if truth.first_error is None else truth.first_error + 1
            agree += [bool(true) == (value > 0) for true, value in zip(truth[:end], made[:end], strict=True)]
    return agree
