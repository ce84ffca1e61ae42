"""Stages of a long experiment: each is one command, run in its own process, resumed, and skipped once it is done."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from implicit_prm.utils.io import write_json

GRACE_SECONDS = 120  # for an interrupted command to write its results


@dataclass
class Stage:
    """One command.

    Args:
        name: in the report.
        program: a command of this package without `ipr-`, or the path of a script.
        arguments: of the program.
        result: the file that it writes last.
        responses: the file of responses that it samples, trains on or scores, to count their tokens; None if the
            tokens are not reported.
        sampled: the command samples these responses.
        record: command, seconds and peak memory, once it has run.
    """

    name: str
    program: str
    arguments: list[str]
    result: Path
    responses: Path | None = None
    sampled: bool = False
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        """The command line that runs."""
        script = self.program.endswith(".py")
        return [
            sys.executable,
            *([self.program] if script else ["-m", f"implicit_prm.cli.{self.program}"]),
            *self.arguments,
        ]

    @property
    def typed(self) -> str:
        """The command line as a user types it."""
        script = self.program.endswith(".py")
        return shlex.join([*(["python", self.program] if script else [f"ipr-{self.program}"]), *self.arguments])

    @property
    def done(self) -> bool:
        """Whether it has run to its end, as the record in the folder says."""
        return bool(self.record.get("done")) and self.result.exists()


def read_record(stage: Stage, folder: Path) -> None:
    """Read how far a stage got in earlier runs.

    Raises:
        SystemExit: `folder` has results of another command under this name.
    """
    kept = _kept(stage, folder)
    stage.record = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    if stage.done and stage.record["command"] != stage.command[1:]:
        _stop(
            f"{folder} has results of another command for stage {stage.name}:\n"
            f"  {shlex.join(stage.record['command'])}\nUse another folder, or delete {kept} and the results"
        )


def run_stage(stage: Stage, folder: Path, minutes: float, device: str = "cpu") -> None:
    """Run a stage unless it is done. `folder`/stages records its time and peak memory over all attempts.

    Args:
        stage: what to run; gets its record.
        folder: of the experiment.
        minutes: its time limit.
        device: cpu or cuda:K; the only GPU that the command sees.

    Raises:
        SystemExit: the command failed, reached its limit or was interrupted; what it has done is kept.
    """
    read_record(stage, folder)
    if stage.done:
        print(f"== {stage.name}: done", flush=True)
        return
    before = stage.record
    print(f"== {stage.name}, at most {minutes:g} minutes\n   {stage.typed}", flush=True)
    used, status = _bounded(stage.command, minutes, device)
    stage.record = {
        "command": stage.command[1:],
        "done": status == 0,
        "seconds": before.get("seconds", 0.0) + used["seconds"],
        "cpu_seconds": before.get("cpu_seconds", 0.0) + used["cpu_seconds"],
        **{name: max(used[name], before.get(name, 0.0)) for name in ("host_gb", "gpu_gb")},
    }
    write_json(_kept(stage, folder), stage.record)
    if status is None:
        _stop("interrupted; the same command resumes")
    if status == -1:
        _stop(
            f"stage {stage.name} reached the limit of {minutes:g} minutes. Its work is kept: run the same command "
            "again to resume, with a larger --minutes if needed"
        )
    if status != 0:
        _stop(f"stage {stage.name} failed with status {status}. To run it alone:\n  {shlex.join(stage.command)}")


def nvidia_smi(query: str, device: str) -> str:
    """What nvidia-smi answers about a GPU; empty for a CPU, or if there is none."""
    if device == "cpu":
        return ""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", f"--id={device.removeprefix('cuda:')}"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _bounded(command: list[str], minutes: float, device: str) -> tuple[dict[str, float], int | None]:
    """Run a command. Returns its time and peak memory, and its exit status: -1 at the limit, None after Ctrl-C."""
    visible = "" if device == "cpu" else device.removeprefix("cuda:")
    start, peak = time.monotonic(), 0.0
    process = subprocess.Popen(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": visible})
    deadline, cut, interrupted = start + minutes * 60, False, False
    try:
        while True:
            # Not Popen.wait, which does not report the child's time and peak memory.
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, _gpu_memory(device))
            if time.monotonic() > deadline:
                process.send_signal(signal.SIGKILL if cut else signal.SIGINT)
                deadline, cut = time.monotonic() + GRACE_SECONDS, True
            time.sleep(1)
    except KeyboardInterrupt:  # the child receives it, too
        interrupted = True
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    used = {
        "seconds": time.monotonic() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "host_gb": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9,
        "gpu_gb": peak,
    }
    if interrupted:
        return used, None
    return used, -1 if cut else process.returncode


def _gpu_memory(device: str) -> float:
    """GB in use on the whole GPU, by all processes."""
    used = nvidia_smi("memory.used", device)
    return float(used.split()[0]) * 2**20 / 1e9 if used else 0.0


def _kept(stage: Stage, folder: Path) -> Path:
    return folder / "stages" / f"{stage.name.replace(' ', '_')}.json"


def _stop(message: str) -> None:
    sys.exit(f"{Path(sys.argv[0]).stem}: {message}")
