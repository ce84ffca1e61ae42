"""PRMBench (Song et al., arXiv 2501.03124) and Hard2Verify (Pandit et al., arXiv 2510.13744): a label for every step.

The columns are those of the published files: of PRMBench as its repository documents them, of Hard2Verify as public
code reads them, as its own repository was not at hand. Rows become groups as those of ProcessBench do: a problem with
all of its solutions, steps joined by a blank line, and every step with its label.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from implicit_prm.data.process_bench import SEPARATOR, same_problem
from implicit_prm.data.readers import Rows, read_rows
from implicit_prm.types import Group, ImplicitPRMError, StepLabels

PRMBENCH_COLUMNS = (
    *("idx", "classification", "original_question", "modified_question", "modified_process", "error_steps"),
)
HARD2VERIFY_COLUMNS = ("unique_id", "question", "model_response_by_step", "human_labels")
_ENCRYPTED = (*HARD2VERIFY_COLUMNS[1:], "human_labels_first_error_idx")

# The official adapters remove these numbers before they score a step.
_NUMBER = re.compile(r"^(?:step\s*)?\d+\.\s*", re.IGNORECASE)


@dataclass(frozen=True)
class _Solution:
    """A solution with its labels; `problem` is what the bootstrap resamples, and `kind` the class of its errors."""

    id: str
    prompt: str
    problem: str
    kind: str
    steps: list[str]
    right: list[bool]
    others: dict[str, Any]


def load_prmbench(dataset: str, split: str, revision: str | None, dropped: Counter[str]) -> list[Group]:
    """PRMBench: solutions with errors of nine classes, made from correct ones.

    A step is wrong if its number, counted from 1, is in `error_steps`. As in the official evaluation, the first row of
    an `idx` in a class counts, and the numbers before the steps are removed.

    Args:
        dataset: a local file or folder, or a hub id.
        split: of a folder or hub dataset.
        revision: a commit, branch or tag of a hub dataset.
        dropped: counts the solutions that are left out, by reason.

    Raises:
        ImplicitPRMError: a source that cannot be read, a missing column, or an invalid row, by number.
    """
    rows = read_rows(dataset, split, revision, option="dataset")
    return _groups(_solutions(rows, dataset, PRMBENCH_COLUMNS, _of_prmbench), dropped)


def load_hard2verify(dataset: str, split: str, revision: str | None, dropped: Counter[str]) -> list[Group]:
    """Hard2Verify: proofs by large models, every step labelled by experts.

    The published rows are encrypted, to keep them out of training data; they are decrypted here with the row's
    `canary`. Decrypted files are read as well.

    Args:
        dataset: a local file or folder, or a hub id.
        split: of a folder or hub dataset.
        revision: a commit, branch or tag of a hub dataset.
        dropped: counts the solutions that are left out, by reason.

    Raises:
        ImplicitPRMError: a source that cannot be read, a missing column, or an invalid row, by number.
    """
    rows = read_rows(dataset, split, revision, option="dataset")
    return _groups(_solutions(rows, dataset, HARD2VERIFY_COLUMNS, _of_hard2verify), dropped)


def _solutions(
    rows: Rows,
    dataset: str,
    columns: tuple[str, ...],
    solution: Callable[[Mapping[str, Any], str, list[str]], _Solution],
) -> Iterator[_Solution]:
    """The solutions of all rows; `solution` takes a row, its place, and the columns besides the official ones."""
    there = rows.column_names
    missing = [name for name in columns if name not in there]
    if missing:
        raise ImplicitPRMError(
            f"{dataset}: no column {', '.join(missing)}; expected {', '.join(columns)}, got {', '.join(there)}"
        )
    others = [name for name in there if name not in columns]
    for where, row in zip(rows.places, rows, strict=True):
        yield solution(row, where, others)


def _of_prmbench(row: Mapping[str, Any], where: str, others: list[str]) -> _Solution:
    _require_texts(row, where, ("idx", "classification", "original_question", "modified_question"))
    steps, errors = _steps(row, where, "modified_process"), row["error_steps"]
    if not isinstance(errors, list) or not all(type(number) is int for number in errors):
        raise ImplicitPRMError(f"{where}: error_steps is {errors!r}; expected a list of numbers of steps, from 1")
    return _Solution(
        id=row["idx"],
        prompt=row["modified_question"],
        problem=same_problem(row["original_question"]),
        kind=row["classification"],
        steps=[_NUMBER.sub("", step.strip()) for step in steps],
        right=[number not in errors for number in range(1, len(steps) + 1)],
        others={name: row[name] for name in others},
    )


def _of_hard2verify(row: Mapping[str, Any], where: str, others: list[str]) -> _Solution:
    if isinstance(row["model_response_by_step"], str):
        row = _decrypted(row, where)
    row = {**row, "unique_id": str(row["unique_id"])}
    _require_texts(row, where, ("unique_id", "question"))
    steps, labels = _steps(row, where, "model_response_by_step"), row["human_labels"]
    if not isinstance(labels, list) or len(labels) != len(steps) or not all(label in (0, 1) for label in labels):
        raise ImplicitPRMError(f"{where}: human_labels is {labels!r}; expected {len(steps)} labels, 0 or 1")
    return _Solution(
        id=row["unique_id"],
        prompt=row["question"],
        problem=same_problem(row["question"]),
        kind="all",
        steps=steps,
        right=[bool(label) for label in labels],
        others={name: row[name] for name in others},
    )


def _decrypted(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The row in clear: its fields are base64 of JSON or text, xor the repeated SHA-256 of the canary."""
    canary = row.get("canary")
    if not isinstance(canary, str):
        raise ImplicitPRMError(f"{where}: model_response_by_step is encrypted, and there is no canary to decrypt it")
    key = hashlib.sha256(canary.encode()).digest()
    clear = dict(row)
    for name in _ENCRYPTED:
        if isinstance(row.get(name), str):
            try:
                data = base64.b64decode(row[name], validate=True)
                text = bytes(a ^ b for a, b in zip(data, itertools.cycle(key), strict=False)).decode()
            except ValueError:
                raise ImplicitPRMError(f"{where}: {name} cannot be decrypted with the canary of the row") from None
            try:
                clear[name] = json.loads(text)
            except ValueError:
                clear[name] = text
    return clear


def _groups(solutions: Iterable[_Solution], dropped: Counter[str]) -> list[Group]:
    """One group per prompt, in order of appearance. `extra` holds ids, problems, kinds and the other columns."""
    prompts: dict[str, list[_Solution]] = {}
    seen: set[tuple[str, str]] = set()
    for one in solutions:
        if (one.kind, one.id) in seen:
            dropped["solutions with the id of an earlier one"] += 1
        elif not all(step.strip() for step in one.steps):
            dropped["solutions with a blank step"] += 1
        else:
            prompts.setdefault(one.prompt, []).append(one)
        seen.add((one.kind, one.id))
    return [
        Group(
            id=some[0].id,
            prompt=some[0].prompt,
            completions=[SEPARATOR.join(one.steps) for one in some],
            correctness=[None] * len(some),
            finished=[True] * len(some),
            steps=[one.steps for one in some],
            step_labels=[StepLabels(one.right) for one in some],
            extra={
                "ids": [one.id for one in some],
                "problems": [one.problem for one in some],
                "kinds": [one.kind for one in some],
                **{name: [one.others[name] for one in some] for name in some[0].others},
            },
        )
        for some in prompts.values()
    ]


def _require_texts(row: Mapping[str, Any], where: str, names: Iterable[str]) -> None:
    for name in names:
        if not isinstance(row[name], str) or not row[name].strip():
            raise ImplicitPRMError(f"{where}: {name} is {row[name]!r}; it must be a text")


def _steps(row: Mapping[str, Any], where: str, name: str) -> list[str]:
    steps = row[name]
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        raise ImplicitPRMError(f"{where}: {name} is {steps!r}; expected a list of at least one text")
    return steps
