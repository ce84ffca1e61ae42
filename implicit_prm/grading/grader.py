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
from typing import Literal

from implicit_prm.config import Extraction, GradingConfig
from implicit_prm.grading.extraction import Rule, closing_text, find_answer, is_sentence
from implicit_prm.grading.latex import exact_value, normalise, plain_text
from implicit_prm.grading.process import TIMEOUT, WorkerProcess
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

    Raises:
        ImplicitPRMError: if `limit_s` is not a positive number, or (from the first comparison) if the worker cannot
            start, for example because math-verify is not installed.
    """

    def __init__(self, extraction: Extraction = "standard", limit_s: float = 5.0) -> None:
        if not (limit_s > 0 and math.isfinite(limit_s)):
            raise ImplicitPRMError(f"limit_s must be a positive number of seconds, got {limit_s!r}")
        self.extraction = extraction
        self._worker = WorkerProcess(limit_s)
        self._compare = lru_cache(maxsize=100_000)(self._compare_in_worker)

    @classmethod
    def of(cls, config: GradingConfig) -> Grader:
        """The grader that a config describes."""
        return cls(config.extraction, config.limit_s)

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
        return Verdict(self._status(normalise(gold), normalise(answer)), answer)

    def answer_classes(self, answers: Sequence[str | None]) -> list[int]:
        """Group the answers to one problem: the class of each, numbered from 0 by first appearance; -1 for None.

        An answer joins the first class whose first member it equals, in either direction. Only answers of about the
        same value are compared. One that math-verify cannot finish with is equal to identical strings only.
        """
        class_of: dict[str, int] = {}
        first_of_class: list[str] = []
        classes_by_value: dict[str, list[int]] = {}
        for answer in dict.fromkeys(normalise(answer) for answer in answers if answer is not None):
            value = self._about(answer)
            if value == "":
                alike = [index for known, indices in classes_by_value.items() if known != TIMEOUT for index in indices]
            else:
                alike = classes_by_value.get(value, []) + classes_by_value.get("", []) if value != TIMEOUT else []
            new = len(first_of_class)
            class_of[answer] = next((k for k in sorted(alike) if self._either_equal(first_of_class[k], answer)), new)
            if class_of[answer] == new:
                first_of_class.append(answer)
                classes_by_value.setdefault(value, []).append(new)
        return [-1 if answer is None else class_of[normalise(answer)] for answer in answers]

    def close(self) -> None:
        """End the worker, if there is one. The grader remains usable: the next comparison starts another."""
        self._worker.close()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _status(self, gold: str, answer: str) -> Status:
        return _compare_directly(gold, answer) or self._compare(gold, answer)

    def _compare_in_worker(self, gold: str, answer: str) -> Status:
        return self._worker.call("compare", gold, answer) or "unparsable"  # type: ignore[return-value]

    def _either_equal(self, first: str, second: str) -> bool:
        return self.equal(first, second).correct or self.equal(second, first).correct

    def _about(self, answer: str) -> str:
        """The value of a normalised answer to three digits; "" for sets, texts and the like."""
        if len(answer) > LIMIT_CHARACTERS:
            return ""
        exact = exact_value(answer)
        if exact is not None and abs(exact) < 1e300:
            return f"{float(exact):.2e}"
        return self._worker.call("about", answer)

    def _read_end(self, text: str) -> str | None:
        value = self._worker.call("closing_value", closing_text(text))
        return None if value in ("", TIMEOUT) else value


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
