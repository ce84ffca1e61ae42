"""The other end of `grading.Grader`: compares answers with math-verify in a process of its own, one JSON line each.

Run as `python -m implicit_prm.grading.worker`. The first line out is {"ready": true} or {"error": why}. Then, for
each {"gold": str, "answer": str, "limit_s": float} in, {"status": "equal" | "different" | "unparsable"} comes out, or
the process ends: when the time is up, or when the answer brings it down.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import re
import signal
import sys
from functools import lru_cache
from typing import Any

from implicit_prm.grading.latex import readable

_TIME = re.compile(
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))? ?(?:\\(?:text|mathrm|mbox)\{ ?)?(?:(?P<half>[ap])\.? ?m\.?|o'clock)?\}?",
    re.IGNORECASE,
)
_NO_EQUATION = re.compile(r"[<>!:]=|,(?!\d{3}(?!\d))|;")
LIMIT_MEMORY_BYTES = 4 << 30  # an answer such as 10^{10^{10}} would otherwise be written out


def compare(gold: str, answer: str) -> str:
    """ "equal", "different", or "unparsable" (neither of them is mathematics, and as strings they differ)."""
    times = _TIME.fullmatch(gold), _TIME.fullmatch(answer)
    if times[0] and times[1] and same_time(times[0], times[1]):
        return "equal"
    (gold, gold_percent), (answer, answer_percent) = readable(gold), readable(answer)
    if gold == answer and gold_percent == answer_percent:
        return "equal"
    if equal(read(gold), read(answer)):  # 10% is 10, as it is where the question asks for a percentage ...
        return "equal"
    if (gold_percent or answer_percent) and equal(  # ... and it is a tenth elsewhere
        read(_hundredths(gold) if gold_percent else gold), read(_hundredths(answer) if answer_percent else answer)
    ):
        return "equal"
    return "different" if read(gold) or read(answer) else "unparsable"


def same_time(gold: re.Match[str], answer: re.Match[str]) -> bool:
    """Is 2:00 pm the answer 2? Whether it is a.m. or p.m. counts where both say it."""
    halves = {(time["half"] or "").lower() for time in (gold, answer)} - {""}
    clocks = [(int(time["hour"]), time["minute"] or "00") for time in (gold, answer)]
    return clocks[0] == clocks[1] and len(halves) < 2


def read(answer: str) -> tuple[Any, ...]:
    """What an answer is to SymPy: all of it, or the right side of an equation whose left side is not for machines."""
    if whole := parse(answer):
        return whole
    _, equals, right = answer.rpartition("=")
    return parse(right) if equals and not _NO_EQUATION.search(answer) else ()


@lru_cache(maxsize=1024)
def parse(answer: str) -> tuple[Any, ...]:
    """The SymPy expression that math-verify reads the whole of an answer as; empty where it does not.

    Its other ways of reading are off: of text that is no TeX they take the last number, and so 12 for "x} + 12".
    """
    import math_verify

    # Our own clock is running; math-verify's, which a long computation in C would block, is off. So below.
    found = math_verify.parse(
        f"${answer}$",
        [_latex_only()],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    return tuple(expression for expression in found if not _is_undefined(expression))


def equal(gold: tuple[Any, ...], answer: tuple[Any, ...]) -> bool:
    """Do math-verify's readings of two answers agree?"""
    import math_verify

    return bool(math_verify.verify(list(gold), list(answer), timeout_seconds=None))


@lru_cache(maxsize=1)
def _latex_only() -> Any:
    import math_verify
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig

    # `readable` has taken the units away. This would take all from the first \text to the last: 5 ft 3 in became 5.
    tidy = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    return math_verify.LatexExtractionConfig(normalization_config=tidy)


def _is_undefined(expression: Any) -> bool:
    """Has it a division by zero in it? All of those are the same to SymPy: 2:00 is 3:00."""
    from sympy import Basic, nan, zoo

    return isinstance(expression, Basic) and expression.has(nan, zoo)


def _hundredths(number: str) -> str:
    return rf"\frac{{{number}}}{{100}}"


def main() -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a library prints goes to stderr and cannot pass for a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a notebook is for the parent, which ends us if it wants to
    logging.disable(logging.CRITICAL)

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        compare("1", "x")  # the slow imports, and the first use's caches, before any clock runs
        _limit_memory()
    except Exception as error:
        reply({"error": f"{type(error).__name__}: {error}"})
        return
    reply({"ready": True})

    for line in sys.stdin:
        request = json.loads(line)
        # A thread written in C: it ends the process even while a computation holds the interpreter's lock, and even
        # when the parent is gone.
        faulthandler.dump_traceback_later(request["limit_s"], exit=True)
        try:
            status = compare(request["gold"], request["answer"])
        except Exception:
            status = "unparsable"
        faulthandler.cancel_dump_traceback_later()
        reply({"status": status})


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows, and macOS may refuse
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_MEMORY_BYTES, hard))


if __name__ == "__main__":
    main()
