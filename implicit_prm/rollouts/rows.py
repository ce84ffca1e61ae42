"""The rows of a rollout file: gathered from the parts of several processes, checked against their source, counted."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from implicit_prm.config import TextConfig
from implicit_prm.data.tokenization import build_prompt
from implicit_prm.types import ImplicitPRMError, Problem
from implicit_prm.utils.io import JsonLines


def part(path: Path, rank: int) -> Path:
    """The file that the process of this rank writes to."""
    return path.with_name(f"{path.name}.rank{rank}")


def parts(path: Path) -> list[Path]:
    """The parts that were not gathered yet."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.rank*"))


def gather(path: Path, problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Write all rows into one file, each problem once and in the order of the problems; rows of other problems last."""
    output, found = JsonLines(path), parts(path)
    written = output.rows()
    rows: dict[str, dict[str, Any]] = {}
    for row in [*written, *(row for file in found for row in JsonLines(file).rows())]:
        rows.setdefault(row["id"], row)
    order = {problem.id: number for number, problem in enumerate(problems)}
    gathered = sorted(rows.values(), key=lambda row: order.get(row["id"], len(order)))
    if gathered != written:
        output.replace(gathered)
    for file in found:
        file.unlink()
    return gathered


def check_source(rows: Sequence[dict[str, Any]], problems: Sequence[Problem], text: TextConfig, path: Path) -> None:
    """Check that the rows are of the same problems as the source has now.

    Raises:
        ImplicitPRMError: the source lacks a row's problem, or has another text or answer for it.
    """
    by_id = {problem.id: problem for problem in problems}
    for row in rows:
        problem = by_id.get(row["id"])
        if problem is None:
            if len(rows) <= len(problems):  # otherwise the file is of a run over more problems
                raise ImplicitPRMError(
                    f"{path} has problem {row['id']}, but the source does not: the source has changed; choose another "
                    "output"
                )
        elif row["prompt"] != build_prompt(problem.text, text) or row["answer"] != problem.answer:
            raise ImplicitPRMError(
                f"{path}: the text or answer of problem {row['id']} differs: the source has changed; choose another "
                "output"
            )


def summary(rows: Sequence[dict[str, Any]], problems: Sequence[Problem]) -> str:
    """Numbers of responses and problems, and the shares of correct and cut-off responses."""
    wanted = {problem.id for problem in problems}
    rows = [row for row in rows if row["id"] in wanted]
    correct = [label for row in rows for label in row["correctness"]]
    cut_off = sum(not finished for row in rows for finished in row["finished"])
    if not correct:
        return "no responses"
    return (
        f"{len(correct)} responses to {len(rows)} problems: {sum(correct) / len(correct):.1%} correct, "
        f"{cut_off / len(correct):.1%} cut off"
    )
