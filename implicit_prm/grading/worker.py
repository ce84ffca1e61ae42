"""The child process of `Grader`: reads and compares answers, one JSON line per call.

Run as `python -m implicit_prm.grading.worker`. The first line out is {"ready": true} or {"error": reason}. Then, for
each {"function": str, "arguments": [str, ...], "limit_s": float} in, {"result": str} comes out, "" if the call failed.
The process ends when a call takes more CPU time than `limit_s`, or when the answer brings it down.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

LIMIT_MEMORY_BYTES = 4 << 30  # an answer such as 10^{10^{10}} would otherwise be written out


def main() -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a library prints goes to stderr and cannot pass for a reply
    for number in (signal.SIGINT, signal.SIGTERM):  # for the parent, though a terminal or scheduler sends it to both
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "SIGPROF"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
    logging.disable(logging.CRITICAL)

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        from implicit_prm.grading import equality, magnitudes, reading

        equality.compare("1", "x")  # slow imports and first calls, before any clock runs
        _limit_memory()
    except Exception as error:
        reply({"error": f"{type(error).__name__}: {error}"})
        return
    reply({"ready": True})

    functions: dict[str, Callable[..., str]] = {
        "compare": equality.compare,
        "closing_value": reading.closing_value,
        "magnitude": magnitudes.magnitude,
    }
    for line in sys.stdin:
        request = json.loads(line)
        limit_cpu_time(request["limit_s"])
        try:
            result = functions[request["function"]](*request["arguments"])
        except Exception:
            result = ""
        limit_cpu_time(0)
        reply({"result": result})


def limit_cpu_time(seconds: float) -> None:
    """End this process after so many seconds of CPU time, even inside C code; 0 lifts the limit."""
    if hasattr(signal, "setitimer"):  # on Windows there is only the parent's limit in wall time
        signal.setitimer(signal.ITIMER_PROF, seconds)  # the default action of SIGPROF terminates


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows, and macOS may refuse
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_MEMORY_BYTES, hard))


if __name__ == "__main__":
    main()
