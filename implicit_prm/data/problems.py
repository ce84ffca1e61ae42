"""Where problems with known answers come from: the sandbox, MATH, MATH-500, GSM8K, or a file of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from implicit_prm import records, sandbox
from implicit_prm.config import ProblemsConfig
from implicit_prm.data.answers import extract_answer
from implicit_prm.data.groups import read_rows
from implicit_prm.records import ImplicitPRMError, Problem


@dataclass(frozen=True)
class Source:
    """A hub dataset and the column that holds, or ends with, the answer."""

    hub_id: str
    answer_column: str
    subset: str | None = None


SOURCES = {
    "math": Source("DigitalLearningGmbH/MATH-lighteval", "solution"),
    "math500": Source("HuggingFaceH4/MATH-500", "answer"),
    "gsm8k": Source("openai/gsm8k", "answer", "main"),
}


def load_problems(config: ProblemsConfig, say: Callable[[str], None] = print) -> list[Problem]:
    """The problems of a source, at most `limit` of them, in its order. Rows without an answer are left out and counted.

    Args:
        config: `name` is sandbox, one of `SOURCES`, another hub id, or a local file with problems and answers.

    Raises:
        ImplicitPRMError: no such source or split, a missing column, or no row with an answer.
    """
    if config.name == "sandbox":
        return sandbox.problems(config.split, config.limit)
    source = SOURCES.get(config.name)
    rows = read_rows(
        source.hub_id if source else config.name, config.split, config.revision, source.subset if source else None
    )
    columns: list[str] = rows.column_names  # type: ignore[attr-defined]
    text = next((name for name in records.PROMPT if name in columns), None)
    answer = source.answer_column if source else next((n for n in ("answer", "solution") if n in columns), None)
    if text is None or answer not in columns:
        raise ImplicitPRMError(
            f"{config.name}: has columns {', '.join(columns)}; expected a problem ({', '.join(records.PROMPT)}) and "
            "its answer (or a solution that ends in one)"
        )
    identifier = next((name for name in records.IDENTIFIER if name in columns), None)
    problems: list[Problem] = []
    without = []
    for number, row in enumerate(rows):
        if len(problems) == config.limit:
            break
        final = _answer(row[answer], answer)
        if final is None:
            without.append(number + 1)
            continue
        name = str(row[identifier]) if identifier else f"{config.name}-{config.split}-{number:05d}"
        problems.append(Problem(name, row[text], final))
    if without:
        say(f"{config.name}: left out {len(without)} rows without an answer (the first is row {without[0]})")
    if not problems:
        raise ImplicitPRMError(f"{config.name}: no row has an answer; without one no response can be graded")
    if len({problem.id for problem in problems}) < len(problems):
        raise ImplicitPRMError(f"{config.name}: ids in column {identifier} repeat; every problem needs its own")
    return problems


def _answer(value: object, column: str) -> str | None:
    """The final answer in a cell: a solution's boxed or `####` answer, or the cell itself; None where there is none."""
    text = "" if value is None else str(value).strip()
    if column == "solution" or "####" in text:
        text = extract_answer(text) or ""
    return text or None


def step_checker(name: str) -> Callable[[str, str], list[bool]] | None:
    """Says of each step whether it is right, where the source can tell: only the sandbox can."""
    return sandbox.check_steps if name == "sandbox" else None
