"""Commands of the package in processes of their own, which can be killed and measured.

They are forked from a server that has imported the libraries already. What they run is the command itself, with its
options, its output and its exit status.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

_LIBRARIES = [
    *(f"implicit_prm.cli.{name}" for name in ("rollout", "train", "eval", "label", "merge")),
    *("implicit_prm.rollouts.run", "implicit_prm.training.run", "implicit_prm.training.merge"),
    *("implicit_prm.baselines.labels.run", "implicit_prm.evaluation.best_of_n.run"),
    *("implicit_prm.evaluation.best_of_n.figures", "implicit_prm.evaluation.best_of_n.page", "peft", "datasets"),
]
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(_LIBRARIES)


class Command:
    """A running command, whose output goes to a file beside its working folder.

    Args:
        line: the program and its options, such as `ipr-rollout problems.limit=4`.
        folder: the working folder.
    """

    def __init__(self, line: Sequence[str], folder: Path) -> None:
        self._log = folder.with_name(f"{folder.name}-{time.time_ns()}.log")
        self._process = _SERVER.Process(target=_run, args=(list(line), str(folder), str(self._log)))
        self._process.start()
        self._measured = psutil.Process(self._process.pid)
        self.cpu_seconds = 0.0

    @property
    def process(self) -> int:
        """Its process id."""
        return self._measured.pid

    def signal_after(self, cpu_seconds: float, number: int) -> int:
        """Send a signal once the command has used so much CPU time; returns the exit status, -9 for SIGKILL."""
        while self._used() < cpu_seconds and self._process.exitcode is None:
            time.sleep(0.002)
        with contextlib.suppress(psutil.NoSuchProcess):
            self._measured.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; returns the exit status."""
        while self._process.exitcode is None:
            self._used()
            self._process.join(0.02)
        return self._process.exitcode

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _used(self) -> float:
        try:
            times = self._measured.cpu_times()
        except psutil.NoSuchProcess:
            return self.cpu_seconds
        self.cpu_seconds = max(self.cpu_seconds, times.user + times.system)
        return self.cpu_seconds


def _run(line: list[str], folder: str, log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.chdir(folder)
    os.environ["IPR_CACHE"] = str(Path(folder) / "cache")
    torch.set_num_threads(1)
    sys.argv = line
    importlib.import_module(f"implicit_prm.cli.{line[0].removeprefix('ipr-')}").main()
