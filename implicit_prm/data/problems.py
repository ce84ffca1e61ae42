"""Where problems with known answers come from: the sandbox, MATH, MATH-500, GSM8K, or a file of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from implicit_prm import sandbox
from implicit_prm.config import ProblemsConfig
from implicit_prm.data.columns import ANSWER, IDENTIFIER, PROMPT
from implicit_prm.data.readers import Rows, read_rows
from implicit_prm.data.row_formats import column
from implicit_prm.grading.extraction import find_answer
from implicit_prm.types import ImplicitPRMError, Problem


@dataclass(frozen=True)
class Source:
    """A hub dataset, the commit that is read by default, and the column that holds, or ends with, the answer."""

    hub_id: str
    revision: str
    answer_column: str
    subset: str | None = None


SOURCES = {
    "math": Source("DigitalLearningGmbH/MATH-lighteval", "0530c78699ea5e8eb5530600900e1f328b48acad", "solution"),
    "math500": Source("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "answer"),
    "gsm8k": Source("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", "answer", "main"),
}


def load_problems(config: ProblemsConfig, say: Callable[[str], None] = print) -> list[Problem]:
    """The problems of a source, at most `limit` of them, in its order. Rows without an answer are left out and counted.

    Args:
        config: `name` is sandbox, one of `SOURCES` (with `path`, read from there), another hub id, or a local file with
            problems and answers.

    Raises:
        ImplicitPRMError: no such source or split, a missing column, an empty problem, or no row with an answer.
    """
    if config.name == "sandbox":
        return sandbox.problems(config.split, config.limit)
    where, rows = _rows(config)
    columns = rows.column_names
    text = column(columns, PROMPT)
    known = SOURCES.get(config.name)
    answer = column(columns, (known.answer_column,) if known else (*ANSWER, "solution"))
    if text is None or answer is None:
        wanted = known.answer_column if known else "answer, or a solution that ends in one"
        raise ImplicitPRMError(
            f"{where}: has columns {', '.join(columns)}; expected a problem ({', '.join(PROMPT)}) and its "
            f"answer ({wanted})"
        )
    rows.require([text, answer])
    identifier = column(columns, IDENTIFIER)
    problems: list[Problem] = []
    without: list[str] = []
    for number, (place, row) in enumerate(zip(rows.places, rows, strict=True)):
        if len(problems) == config.limit:
            break
        if not isinstance(row[text], str) or not row[text].strip():
            raise ImplicitPRMError(f"{place}: {text} is {row[text]!r}; a problem must be a text")
        final = _answer(row[answer], answer)
        if final is None:
            without.append(place)
            continue
        name = str(row[identifier]) if identifier else f"{config.name}-{config.split}-{number:05d}"
        problems.append(Problem(name, row[text], final))
    if without:
        say(f"{where}: left out {len(without)} rows without an answer (the first is {without[0]})")
    if not problems:
        raise ImplicitPRMError(f"{where}: no row has an answer; without one no response can be graded")
    if len({problem.id for problem in problems}) < len(problems):
        raise ImplicitPRMError(f"{where}: ids in column {identifier} repeat; every problem needs its own")
    return problems


def _rows(config: ProblemsConfig) -> tuple[str, Rows]:
    """Where the problems are read from, and the rows there."""
    known = SOURCES.get(config.name)
    if known is None:
        if config.path is not None:
            raise ImplicitPRMError(
                f"problems.path is a local copy of {', '.join(SOURCES)}; for another file, name it in problems.name"
            )
        return config.name, read_rows(config.name, config.split, config.revision)
    if config.path is not None:
        return config.path, read_rows(config.path, config.split, subset=known.subset)
    revision = config.revision or known.revision
    return known.hub_id, read_rows(known.hub_id, config.split, revision, known.subset, option="problems.path")


def _answer(value: object, column: str) -> str | None:
    """The final answer in a cell: a solution's boxed or `####` answer, or the cell itself; None where there is none."""
    text = "" if value is None else str(value).strip()
    if column == "solution" or "####" in text:
        text = find_answer(text)[0] or ""
    return text if text and "\\boxed{}" not in text else None  # two solutions of MATH box nothing


def step_checker(name: str) -> Callable[[str, str], list[bool]] | None:
    """Says of each step whether it is right, where the source can tell: only the sandbox can."""
    return sandbox.check_steps if name == "sandbox" else None
