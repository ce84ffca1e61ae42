"""ProcessBench rows (Zheng et al., arXiv 2412.06559) to groups: a problem with all of its labelled solutions."""

from __future__ import annotations

from typing import Any

from implicit_prm.config.evaluation import is_file
from implicit_prm.data.readers import read_rows
from implicit_prm.types import Group, ImplicitPRMError, StepLabels

# The official columns. All are required: results are reported by generator and by final answer.
COLUMNS = ("id", "generator", "problem", "steps", "final_answer_correct", "label")
SEPARATOR = "\n\n"  # between steps, as in the original solutions


def load_process_bench(source: str, dataset: str, revision: str | None = None) -> list[Group]:
    """One group per problem, in order of appearance. Problems that differ only in white space are the same.

    A solution becomes a response: its steps, joined by blank lines. It counts as finished, as the benchmark marks no
    solution as cut off, so the end-of-turn token is scored as part of the last step. `correctness` is that of the final
    answer. Step labels are right before the first error and wrong from there on; the benchmark makes no statement about
    the steps after the first error. `extra` holds `ids`, `generators` and every column that is not official, one entry
    per solution.

    Args:
        source: a local file, or a split of `dataset`.
        dataset: hub id or local folder of the splits.
        revision: a commit, branch or tag of a hub dataset.

    Raises:
        ImplicitPRMError: a source that cannot be read, a missing column, or an invalid row, by number.
    """
    if is_file(source):
        where, rows = source, read_rows(source)
    else:
        where, rows = f"{dataset}, split {source}", read_rows(dataset, source, revision, option="dataset")
    columns = rows.column_names
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise ImplicitPRMError(
            f"{where}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}, got {', '.join(columns)}"
        )
    problems: dict[str, list[dict[str, Any]]] = {}
    seen: set[str] = set()
    for place, row in zip(rows.places, rows, strict=True):
        _check(row, place, seen)
        problems.setdefault(same_problem(row["problem"]), []).append(row)
    others = [name for name in columns if name not in COLUMNS]
    return [_group(some, others) for some in problems.values()]


def same_problem(text: str) -> str:
    """The text with every white space replaced by one space; equal for the same problem."""
    return " ".join(text.split())


def _group(rows: list[dict[str, Any]], others: list[str]) -> Group:
    extra = {"ids": [row["id"] for row in rows], "generators": [row["generator"] for row in rows]}
    return Group(
        id=rows[0]["id"],
        prompt=rows[0]["problem"],
        completions=[SEPARATOR.join(row["steps"]) for row in rows],
        correctness=[row["final_answer_correct"] for row in rows],
        finished=[True] * len(rows),
        steps=[list(row["steps"]) for row in rows],
        step_labels=[_step_labels(row["label"], len(row["steps"])) for row in rows],
        extra=extra | {name: [row[name] for row in rows] for name in others},
    )


def _step_labels(label: int, steps: int) -> StepLabels:
    right = steps if label == -1 else label
    return StepLabels([True] * right + [False] * (steps - right))


def _check(row: dict[str, Any], where: str, seen: set[str]) -> None:
    for name in ("id", "generator", "problem"):
        if not isinstance(row[name], str) or not row[name].strip():
            raise ImplicitPRMError(f"{where}: {name} is {row[name]!r}; it must be a text")
    if row["id"] in seen:
        raise ImplicitPRMError(f"{where}: the id {row['id']} is used by an earlier row; every solution needs its own")
    seen.add(row["id"])
    steps = row["steps"]
    if not isinstance(steps, list) or not steps:
        raise ImplicitPRMError(f"{where}: steps is {steps!r}; expected a list of at least one step")
    for place, step in enumerate(steps):
        if not isinstance(step, str) or not step.strip():
            raise ImplicitPRMError(f"{where}: step {place} is {step!r}; expected a text that is not blank")
    if not isinstance(row["final_answer_correct"], bool):
        raise ImplicitPRMError(
            f"{where}: final_answer_correct is {row['final_answer_correct']!r}; it must be true or false"
        )
    label = row["label"]
    if isinstance(label, bool) or not isinstance(label, int) or not -1 <= label < len(steps):
        raise ImplicitPRMError(
            f"{where}: the label is {label!r} with {len(steps)} steps; it must be the index of the first wrong step, "
            f"0 to {len(steps) - 1}, or -1 for none"
        )
