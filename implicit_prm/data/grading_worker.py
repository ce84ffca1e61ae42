"""The other end of `grading.Grader`: compares answers with math-verify in a process of its own, one JSON line each.

Run as `python -m implicit_prm.data.grading_worker`. The first line out is {"ready": true} or {"error": why}. Then, for
each {"gold": str, "answer": str, "limit_s": float} in, {"status": "equal" | "different" | "unparsable"} comes out, or
the process ends: when the time is up, or when the answer brings it down.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import signal
import sys
from functools import lru_cache
from typing import Any

LIMIT_MEMORY_BYTES = 4 << 30  # an answer such as 10^{10^{10}} would otherwise be written out


def compare(gold: str, answer: str) -> str:
    """ "equal", "different", or "unparsable" (neither of them is mathematics, and as strings they differ)."""
    gold_parsed, answer_parsed = parse(gold), parse(answer)
    if equal(gold_parsed, answer_parsed):
        return "equal"
    # To math-verify 10% is 10, as it is where the question asks for a percentage. Elsewhere it is a tenth.
    if "%" in gold + answer and equal(parse(_hundredths(gold)), parse(_hundredths(answer))):
        return "equal"
    if all(isinstance(expression, str) for expression in gold_parsed + answer_parsed):
        return "unparsable"
    return "different"


@lru_cache(maxsize=1024)
def parse(answer: str) -> tuple[Any, ...]:
    """What math-verify makes of an answer: a SymPy expression, where it finds one, and a string as a last resort."""
    import math_verify

    # Our own clock is running; math-verify's, which a long computation in C would block, is off. So below.
    return tuple(math_verify.parse(f"${answer}$", parsing_timeout=None))


def equal(gold: tuple[Any, ...], answer: tuple[Any, ...]) -> bool:
    """Do math-verify's readings of two answers agree?"""
    import math_verify

    return bool(math_verify.verify(list(gold), list(answer), timeout_seconds=None))


def _hundredths(answer: str) -> str:
    number = answer.removesuffix("%").removesuffix("\\")
    return rf"\frac{{{number}}}{{100}}" if answer.endswith("%") else answer


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
