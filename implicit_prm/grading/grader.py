"""Is a response's final answer the right one, and if not, why: math-verify in a worker that can be killed.

SymPy can be kept busy for ever by nine characters (9^{9^{9^9}}), in C code that no Python signal interrupts. So every
comparison runs in a child process that ends when its time is up; the next comparison gets a new one.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from types import TracebackType
from typing import Any, Literal

from implicit_prm.grading.extraction import Rule, extract_answer, find_answer, normalise
from implicit_prm.types import ImplicitPRMError

__all__ = ["Grader", "Verdict", "extract_answer", "normalise"]

Status = Literal["equal", "different", "no_answer", "timeout", "unparsable"]

LIMIT_CHARACTERS = 2_000
_PLAIN_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?<=\d)")
_RELATION = re.compile(r"[=<>]|\\(?:leq?|geq?|lt|gt|neq?|in|approx)(?![a-zA-Z])")


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is the gold answer.

    `no_answer`: there is none to compare. `timeout`: the comparison did not end in time, or brought its worker down.
    `unparsable`: neither is mathematics to math-verify, and as strings they differ.
    """

    status: Status
    answer: str | None = None  # what was compared with the gold answer, as the response has it
    rule: Rule | None = None  # which rule of `find_answer` found it; None if it was given

    @property
    def correct(self) -> bool:
        """True only if the answers were found equal: doubt counts as wrong."""
        return self.status == "equal"


@dataclass(frozen=True)
class Usage:
    """How a grader reached its verdicts: at sight (no mathematics needed), from memory, or by math-verify."""

    at_sight: int
    remembered: int
    compared: int
    workers: int  # started; all but the first of them because a comparison had to be killed


class Grader:
    r"""Grades final answers by mathematical equality (math-verify's `parse` and `verify`, gold first).

    Identical answers (after `normalise`) and pairs of plain numbers are compared here and now, numbers exactly. All
    other pairs go to a worker process that is started on first need (1 to 2 s, which no limit counts) and ended by
    `close`, by leaving the `with` block, or with the interpreter. Answers longer than 2,000 characters are compared as
    strings only. Verdicts are remembered. Threads may share a grader; they take turns.

    Args:
        limit_s: seconds that one comparison may take, start to end; then its verdict is `timeout`.

    Raises:
        ImplicitPRMError: if `limit_s` is not a positive number, or (from the first comparison) if the worker cannot
            start, for example because math-verify is not installed.
    """

    def __init__(self, limit_s: float = 5.0) -> None:
        if not (limit_s > 0 and math.isfinite(limit_s)):
            raise ImplicitPRMError(f"limit_s must be a positive number of seconds, not {limit_s!r}")
        self._worker = _Worker(limit_s)
        self._compare = lru_cache(maxsize=100_000)(self._worker.compare)
        self._at_sight = 0

    @property
    def usage(self) -> Usage:
        """Counts since the grader was made. Responses without an answer are in none of them."""
        memory = self._compare.cache_info()
        return Usage(self._at_sight, memory.hits, memory.misses, self._worker.started)

    def grade(self, response: str, answer: str) -> Verdict:
        """The verdict on a whole response, given the gold answer; `extract_answer` says what counts as its answer."""
        found, rule = find_answer(response)
        return replace(self.equal(answer, found), rule=rule)

    def equal(self, gold: str | None, answer: str | None) -> Verdict:
        """The verdict on an extracted answer. Not symmetric: gold "0 <= x < 1" takes [0, 1), but not the reverse."""
        if gold is None or answer is None:
            return Verdict("no_answer", answer)
        return Verdict(self._status(normalise(gold), normalise(answer)), answer)

    def answer_classes(self, answers: Sequence[str | None]) -> list[int]:
        """Group the answers to one problem: the class of each, numbered from 0 by first appearance; -1 for None.

        An answer joins the first class whose first member it equals, in either direction. One that math-verify cannot
        finish with is a class of its own, for identical strings only.
        """
        class_of: dict[str, int] = {}
        representatives: list[str] = []
        unfinished: set[str] = set()
        for answer in dict.fromkeys(normalise(answer) for answer in answers if answer is not None):
            class_of[answer] = len(representatives)
            for index, representative in enumerate(representatives):
                if _compare_at_sight(representative, answer) is None and unfinished & {representative, answer}:
                    continue
                status = self._equal_either_way(representative, answer)
                if status == "equal":
                    class_of[answer] = index
                    break
                if status == "timeout":
                    # Whichever of the two is too much even beside 0 is not tried again.
                    unfinished.add(answer if self.equal("0", answer).status == "timeout" else representative)
            if class_of[answer] == len(representatives):
                representatives.append(answer)
        return [-1 if answer is None else class_of[normalise(answer)] for answer in answers]

    def close(self) -> None:
        """End the worker, if there is one. The grader remains usable: the next comparison starts another."""
        self._worker.close()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _status(self, gold: str, answer: str) -> Status:
        if status := _compare_at_sight(gold, answer):
            self._at_sight += 1
            return status
        return self._compare(gold, answer)

    def _equal_either_way(self, first: str, second: str) -> Status:
        status = self.equal(first, second).status
        # math-verify looks at the order where one of the two is an equation or an inequality, and nowhere else.
        if status == "different" and bool(_RELATION.search(first)) != bool(_RELATION.search(second)):
            status = self.equal(second, first).status
        return status


class _Worker:
    """The child process: started on first need, replaced when a comparison has ended it."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self.started = 0
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def compare(self, gold: str, answer: str) -> Status:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            try:
                reply = self._ask({"gold": gold, "answer": answer, "limit_s": self._limit_s})
            except BaseException:  # Ctrl-C above all: a late reply must not be taken for the next one
                self.close()
                raise
            if reply is None:
                self.close()
                return "timeout"
            return reply["status"]

    def close(self) -> None:
        if self._process is not None:
            self._end_process()
            self._process = None

    def _start(self) -> None:
        self.close()
        # The child finds what this process finds, also where sys.path was changed while it ran.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "implicit_prm.grading.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            encoding="ascii",
        )
        self.started += 1
        self._end_process = weakref.finalize(self, _end, self._process)  # also when the interpreter exits
        hello = self._ask(None)
        if hello is None or "error" in hello:
            self.close()
            reason = hello["error"] if hello else "it ended without a word"
            raise ImplicitPRMError(
                f"the grading worker did not start ({reason}); `python -m implicit_prm.grading.worker` shows why"
            )

    def _ask(self, request: dict[str, Any] | None) -> dict[str, Any] | None:
        """The worker's next message, after sending it a request if there is one; None if it has ended."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if request is not None:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        return json.loads(line) if line else None


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()  # closes the pipes and reaps the child


def _compare_at_sight(gold: str, answer: str) -> Status | None:
    """The verdict on two normalised answers where it takes no mathematics, else None."""
    if gold == answer:
        return "equal"
    if max(len(gold), len(answer)) > LIMIT_CHARACTERS:
        return "different"
    if _PLAIN_NUMBER.fullmatch(gold) and _PLAIN_NUMBER.fullmatch(answer):
        return "equal" if Decimal(gold.replace(",", "")) == Decimal(answer.replace(",", "")) else "different"
    return None
