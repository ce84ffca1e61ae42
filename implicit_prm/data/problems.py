"""Load problems with known answers: the sandbox, MATH, MATH-500, GSM8K, or any file or dataset."""

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
    """A hub dataset: its default commit, and the column that is, or ends with, the answer."""

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
    """The problems of a source in its order, at most `limit`. Rows without an answer are left out and counted.

    Args:
        config: `name` is sandbox, one of `SOURCES` (read from `path` if given), another hub id, or a local file.
        say: prints how many rows were left out.

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
            raise ImplicitPRMError(f"{place}: {text} is {row[text]!r}; expected a text")
        final = _answer(row[answer], answer)
        if final is None:
            without.append(place)
            continue
        name = str(row[identifier]) if identifier else f"{config.name}-{config.split}-{number:05d}"
        problems.append(Problem(name, row[text], final))
    if without:
        say(f"{where}: left out {len(without)} rows without an answer (the first is {without[0]})")
    if not problems:
        raise ImplicitPRMError(f"{where}: no row has an answer; responses cannot be graded without one")
    if len({problem.id for problem in problems}) < len(problems):
        raise ImplicitPRMError(f"{where}: the ids in column {identifier} are not unique")
    return problems


def _rows(config: ProblemsConfig) -> tuple[str, Rows]:
    """The source to name in messages, and its rows."""
    known = SOURCES.get(config.name)
    if known is None:
        if config.path is not None:
            raise ImplicitPRMError(
                f"problems.path is for local copies of {', '.join(SOURCES)}; give other files as problems.name"
            )
        return config.name, read_rows(config.name, config.split, config.revision)
    if config.path is not None:
        return config.path, read_rows(config.path, config.split, subset=known.subset)
    revision = config.revision or known.revision
    return known.hub_id, read_rows(known.hub_id, config.split, revision, known.subset, option="problems.path")


def _answer(value: object, column: str) -> str | None:
    """The final answer of a cell: the boxed or `####` answer of a solution, or the cell itself; None without one."""
    text = "" if value is None else str(value).strip()
    if column == "solution" or "####" in text:
        text = find_answer(text)[0] or ""
    return text if text and "\\boxed{}" not in text else None  # two solutions of MATH box nothing


def step_checker(name: str) -> Callable[[str, str], list[bool]] | None:
    """A function that says whether each step is right, for sources that have one (the sandbox); else None."""
    return sandbox.check_steps if name == "sandbox" else None
