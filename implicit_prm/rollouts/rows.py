"""The rows of a rollout file and of the parts that several processes write: checked, gathered in order, counted."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from implicit_prm.config import TextConfig
from implicit_prm.data.tokenization import build_prompt
from implicit_prm.types import ImplicitPRMError, Problem
from implicit_prm.utils.io import JsonLines, atomic_write

_COLUMNS = ("id", "prompt", "answer", "correctness", "finished")


def part(path: Path, rank: int) -> Path:
    """The file that the process of this rank writes to."""
    return path.with_name(f"{path.name}.rank{rank}")


def parts(path: Path) -> list[Path]:
    """The parts that were not gathered yet."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.rank*"))


@dataclass(frozen=True)
class Row:
    """Where a row is on disk, and what is counted of its responses.

    Args:
        id: of its problem.
        file: the output or a part.
        start: place of its line in bytes.
        size: of its line in bytes, with the newline.
        responses: how many there are.
        correct: how many of them are correct.
        cut_off: how many of them were cut off.
    """

    id: str
    file: Path
    start: int
    size: int
    responses: int
    correct: int
    cut_off: int


class RolloutRows:
    """The rows of a rollout file by the ids of their problems. Each line is read once, and no text is kept.

    Args:
        path: the output.
        problems: of the source, in order.
        text: how a problem becomes a prompt.

    Attributes:
        rows: empty until `read`.
    """

    def __init__(self, path: Path, problems: Sequence[Problem], text: TextConfig) -> None:
        self.path, self.rows = path, dict[str, Row]()
        self._text = text
        self._problems = {problem.id: problem for problem in problems}
        self._size = 0  # bytes of the output that were read

    def read(self) -> None:
        """Read the rows that were written to the output since the last call, and those of the parts.

        Raises:
            ImplicitPRMError: the source lacks a row's problem, or has another text or answer for it; or the file was
                edited.
        """
        for file, start in [(self.path, self._size), *((file, 0) for file in parts(self.path))]:
            for place, size, row in JsonLines(file).entries(start):
                if missing := [name for name in _COLUMNS if name not in row]:
                    raise ImplicitPRMError(
                        f"{file}: the row at byte {place} has no column {missing[0]}; restore the file, or choose "
                        "another output"
                    )
                self._check(row)
                known = Row(
                    row["id"], file, place, size, len(row["correctness"]), sum(row["correctness"]), _cut_off(row)
                )
                self.rows.setdefault(known.id, known)
        unknown = self.rows.keys() - self._problems.keys()
        if unknown and len(self.rows) <= len(self._problems):  # otherwise the file is of a run over more problems
            raise ImplicitPRMError(
                f"{self.path} has problem {min(unknown)}, but the source does not: the source has changed; choose "
                "another output"
            )

    def _check(self, row: dict[str, Any]) -> None:
        problem = self._problems.get(row["id"])
        if problem and (row["prompt"] != build_prompt(problem.text, self._text) or row["answer"] != problem.answer):
            raise ImplicitPRMError(
                f"{self.path}: the text or answer of problem {problem.id} differs: the source has changed; choose "
                "another output"
            )

    def gather(self) -> None:
        """Write all rows into one file, each problem once and in the order of the problems; other problems last."""
        order = {name: number for number, name in enumerate(self._problems)}
        rows = sorted(self.rows.values(), key=lambda row: order.get(row.id, len(order)))
        gathered, size = [], 0
        for row in rows:
            gathered.append(replace(row, file=self.path, start=size))
            size += row.size
        if gathered != rows or (self.path.exists() and self.path.stat().st_size != size):
            self._write(rows)
        for file in parts(self.path):
            file.unlink()
        self.rows, self._size = {row.id: row for row in gathered}, size

    def _write(self, rows: Sequence[Row]) -> None:
        with ExitStack() as stack, atomic_write(self.path) as output:
            streams = {file: stack.enter_context(file.open("rb")) for file in {row.file for row in rows}}
            for row in rows:
                streams[row.file].seek(row.start)
                output.write(streams[row.file].read(row.size).removesuffix(b"\n") + b"\n")

    def summary(self) -> str:
        """Numbers of responses and problems, and the shares of correct and cut-off responses."""
        rows = [row for row in self.rows.values() if row.id in self._problems]
        responses = sum(row.responses for row in rows)
        if not responses:
            return "no responses"
        correct, cut_off = sum(row.correct for row in rows), sum(row.cut_off for row in rows)
        return (
            f"{responses} responses to {len(rows)} problems: {correct / responses:.1%} correct, "
            f"{cut_off / responses:.1%} cut off"
        )


def _cut_off(row: dict[str, Any]) -> int:
    return sum(not finished for finished in row["finished"])
