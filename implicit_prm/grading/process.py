"""The parent's end of the grading worker: starts it, asks it, and replaces it when it has ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from typing import Any

from implicit_prm.types import ImplicitPRMError

# The worker limits its own CPU time. A worker that is stopped (SIGSTOP) or starved uses none, so the parent has a
# limit in wall time, this much longer.
_WALL_FACTOR = 20
TIMEOUT = "timeout"


class WorkerProcess:
    """A child process; starts on first use, is replaced when a call has taken more than `limit_s` CPU seconds."""

    def __init__(self, limit_s: float) -> None:
        self.started = 0
        self._limit_s = limit_s
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def call(self, function: str, *arguments: str) -> tuple[str, bool]:
        """Call a function of the worker.

        Returns:
            Its result: "" if it failed, `TIMEOUT` if it took too long or ended the worker. And whether another call
            would give the same: not if the worker was killed from outside.

        Raises:
            ImplicitPRMError: the worker cannot start, or `stop` was called.
        """
        with self._lock:
            if self._stopped:
                raise ImplicitPRMError("the grading worker was stopped")
            if self._process is None or self._process.poll() is not None:
                self._start()
            try:
                reply = self._exchange({"function": function, "arguments": arguments, "limit_s": self._limit_s})
            except BaseException:  # Ctrl-C above all: a late reply must not be taken for the next one
                self.close()
                raise
            if reply is None:
                assert self._process is not None
                ended_itself = self._process.wait() == -getattr(signal, "SIGPROF", 0)
                self.close()
                return TIMEOUT, ended_itself
            return reply["result"], True

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._end_process()
            self._process = None

    def stop(self) -> None:
        """End a call that another thread waits for, and refuse all others."""
        self._stopped = True
        if (process := self._process) is not None:
            process.kill()

    def _start(self) -> None:
        self.close()
        # The child imports what this process imports, also where sys.path was changed at run time.
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
        if self._stopped:  # since `call` looked, so that `stop` may have found no process to end
            self.close()
            raise ImplicitPRMError("the grading worker was stopped")
        hello = self._exchange(None)
        if hello is None or "error" in hello:
            self.close()
            reason = hello["error"] if hello else "it ended without a message"
            raise ImplicitPRMError(
                f"the grading worker did not start ({reason}); `python -m implicit_prm.grading.worker` shows why"
            )

    def _exchange(self, message: dict[str, Any] | None) -> dict[str, Any] | None:
        """Send a message if there is one, and read the next; None if the worker has ended."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(_WALL_FACTOR * max(self._limit_s, 1), process.kill)
        timer.daemon = True
        timer.start()
        try:
            if message is not None:
                process.stdin.write(json.dumps(message) + "\n")
                process.stdin.flush()
            line = process.stdout.readline()
        finally:
            timer.cancel()
        return json.loads(line) if line else None


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()  # closes the pipes and reaps the child
