"""Is a response's final answer the right one, and how was that decided?

SymPy can be kept busy for ever by nine characters (9^{9^{9^9}}), in C code that no Python signal interrupts. So
math-verify runs in a child process that ends when its time is up; the next comparison starts a new one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import TracebackType
from typing import Literal, cast

from implicit_prm.config import Extraction
from implicit_prm.grading.extraction import Rule, closing_text, find_answer, is_sentence
from implicit_prm.grading.grouping import group_answers
from implicit_prm.grading.latex import exact_value, normalise, plain_text
from implicit_prm.grading.process import TIMEOUT, WorkerProcess
from implicit_prm.grading.store import ResultStore
from implicit_prm.types import ImplicitPRMError

Status = Literal["equal", "different", "no_answer", "timeout", "unparsable"]

LIMIT_CHARACTERS = 2_000
_FRACTION_SIGN = re.compile(r"/|\\frac")


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is the gold answer.

    Attributes:
        status: `equal` or `different`; `no_answer`: there is none to compare; `timeout`: the comparison took too long
            or ended its worker; `unparsable`: math-verify reads neither answer, and as strings they differ.
        answer: what was compared with the gold answer, as the response has it.
        rule: which rule of `find_answer` found the answer, or `end`; None if it was given.
    """

    status: Status
    answer: str | None = None
    rule: Rule | None = None

    @property
    def correct(self) -> bool:
        """True only if the answers were found equal: doubt counts as wrong."""
        return self.status == "equal"


class Grader:
    r"""Grades final answers by mathematical equality (math-verify's `parse` and `verify`, gold first).

    Answers that are identical after `normalise`, and numbers that are integers, decimals or fractions, are compared in
    this process and exactly. All other pairs go to a worker process, which starts when first needed (1 to 2 s, which no
    limit counts) and ends with `close`, with the `with` block, or with the interpreter. Answers longer than 2,000
    characters are compared as strings only. Verdicts are remembered. Threads may share a grader; they take turns.

    Examples:
        >>> with Grader() as grader:
        ...     verdict = grader.grade(r"Half of it: $\boxed{\frac{1}{2}}$", "0.5")
        >>> verdict.correct, verdict.rule
        (True, 'box')

    Args:
        extraction: where a response's answer is looked for: `boxed` or `standard`, see `extract`.
        limit_s: CPU seconds that one comparison may take; then its verdict is `timeout`.
        store: results of the worker on disk, which several graders may share.

    Raises:
        ImplicitPRMError: if `limit_s` is not a positive number, or (from the first comparison) if the worker cannot
            start, for example because math-verify is not installed.
    """

    def __init__(
        self, extraction: Extraction = "standard", limit_s: float = 5.0, store: ResultStore | None = None
    ) -> None:
        if not (limit_s > 0 and math.isfinite(limit_s)):
            raise ImplicitPRMError(f"limit_s must be a positive number of seconds, got {limit_s!r}")
        self.extraction = extraction
        self._worker = WorkerProcess(limit_s)
        self._store = store
        self._status = lru_cache(maxsize=100_000)(self._compare)
        self._normalise = lru_cache(maxsize=10_000)(normalise)

    def extract(self, response: str, finished: bool = True) -> tuple[str, Rule] | tuple[None, None]:
        r"""Find a response's final answer.

        With `extraction="boxed"`, the last `\boxed{}`. With `standard`, the first that is present of: an answer field
        (of a JSON object), a box, `####`, "the answer is", and the value that math-verify finds in the text's end.

        Args:
            response: the whole text.
            finished: False for a response that was cut off: what its text happens to end in is no answer.

        Returns:
            The answer and the rule that found it (`field`, `box`, `hashes`, `phrase`, `end`), or None twice.
        """
        answer, rule = find_answer(response, self.extraction)
        if answer is None or rule is None:
            end = self._read_end(response) if finished and self.extraction == "standard" else None
            return (end, "end") if end else (None, None)
        if rule in ("field", "phrase") and is_sentence(answer):
            answer = self._read_end(answer) or answer
        return answer, rule

    def grade(self, response: str, answer: str, finished: bool = True) -> Verdict:
        """Grade a whole response against the gold answer; `extract` says what counts as its answer."""
        found, rule = self.extract(response, finished)
        return replace(self.equal(answer, found), rule=rule)

    def equal(self, gold: str | None, answer: str | None) -> Verdict:
        """Compare an extracted answer with the gold answer."""
        if gold is None or answer is None:
            return Verdict("no_answer", answer)
        return Verdict(self._status(self._normalise(gold), self._normalise(answer)), answer)

    def answer_classes(self, answers: Sequence[str | None]) -> list[int]:
        """Group the answers to one problem: the class of each, numbered from 0 by first appearance; -1 for None.

        An answer joins the first class whose first member it equals, in either direction. Only answers of about the
        same value are compared. One that math-verify cannot finish with is equal to identical strings only.
        """
        normalised = [None if answer is None else self._normalise(answer) for answer in answers]
        distinct = list(dict.fromkeys(answer for answer in normalised if answer is not None))
        class_of = group_answers(distinct, self._log_magnitude, self._either_equal)
        return [-1 if answer is None else class_of[answer] for answer in normalised]

    def close(self) -> None:
        """End the worker, if there is one. The grader remains usable: the next comparison starts another."""
        self._worker.close()
        if self._store is not None:
            self._store.close()

    def stop(self) -> None:
        """End the worker for good: a comparison that another thread waits for, and all others, raise an error."""
        self._worker.stop()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _compare(self, gold: str, answer: str) -> Status:
        return _compare_directly(gold, answer) or cast(Status, self._ask("compare", gold, answer)) or "unparsable"

    def _either_equal(self, first: str, second: str) -> bool:
        return "equal" in (self._status(first, second), self._status(second, first))

    def _log_magnitude(self, answer: str) -> float | None:
        """The logarithm of an answer's largest number; None if it has none, NaN if the worker cannot finish."""
        if len(answer) > LIMIT_CHARACTERS:
            return math.nan
        exact = exact_value(answer)
        if exact is None:
            found = self._ask("magnitude", answer)
            return math.nan if found == TIMEOUT else float(found) if found else None
        if exact and not 1e-300 < abs(exact) < 1e300:
            return None
        return math.log(abs(exact)) if exact else -math.inf

    def _read_end(self, text: str) -> str | None:
        end = closing_text(text)
        value = self._ask("closing_value", end) if end else ""
        return None if value in ("", TIMEOUT) else value

    def _ask(self, function: str, *arguments: str) -> str:
        """Call a function of the worker, or read its result from the store."""
        known = None if self._store is None else self._store.get(function, arguments)
        if known is not None:
            return known
        result, lasting = self._worker.call(function, *arguments)
        if self._store is not None and lasting:
            self._store.add(function, arguments, result)
        return result


def _compare_directly(gold: str, answer: str) -> Status | None:
    """The verdict on two normalised answers where it takes no mathematics, else None."""
    if gold == answer:
        return "equal"
    if max(len(gold), len(answer)) > LIMIT_CHARACTERS:
        return "different"
    if plain_text(gold) == plain_text(answer):
        return "equal"
    values = exact_value(gold), exact_value(answer)
    if values[0] is None or values[1] is None:
        return None
    if values[0] == values[1]:
        return "equal"
    return None if "." in gold + answer and _FRACTION_SIGN.search(gold + answer) else "different"  # 0.333333 and 1/3
