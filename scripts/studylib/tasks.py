"""Run tasks that depend on each other in several processes, and skip those that are done.

A task is one command of this package with its overrides. It has its own folder, where `task.json` records a hash of the
command and of all tasks it needs. A folder with another hash is emptied; an interrupted task resumes.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import shlex
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from implicit_prm import ImplicitPRMError
from implicit_prm.grading.pool import usable_cores
from implicit_prm.utils.io import write_json
from implicit_prm.utils.progress import progress
from studylib import work

RECORD = "task.json"


@dataclass(frozen=True)
class Task:
    """A command of `work.COMMANDS`, and the names of the tasks that it needs.

    In an override, `{NAME}` stands for the folder of a needed task, and `{study}` for that of the study.
    """

    name: str
    command: str
    overrides: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


def run(tasks: Sequence[Task], folder: Path, jobs: int) -> tuple[dict[str, float], list[str]]:
    """Run the tasks that are not done. If one fails, those that do not need it still run.

    Args:
        tasks: each after those that it needs.
        folder: of the study; a task's folder in it has the task's name.
        jobs: number of processes.

    Returns:
        Seconds that each task took that is done, in this run or an earlier one, and a message for each that failed. The
        same call tries those again.

    Raises:
        ImplicitPRMError: a worker process was killed. The same call resumes.
    """
    hashes = _hashes(tasks)
    seconds: dict[str, float | None] = {task.name: None for task in tasks} | finished(tasks, folder)
    waiting = [task for task in tasks if seconds[task.name] is None]
    failures: list[str] = []
    with progress("tasks", len(waiting)) as advance, _pool(jobs) as pool:
        running: dict[Future[None], tuple[Task, float]] = {}
        try:
            while True:
                for task in [one for one in waiting if all(seconds[name] is not None for name in one.needs)]:
                    if len(running) == jobs:
                        break
                    waiting.remove(task)
                    _prepare(folder / task.name, {"identity": hashes[task.name], "command": command_line(task, folder)})
                    future = pool.submit(work.do, task.command, _overrides(task, folder), folder / task.name)
                    running[future] = task, time.perf_counter()
                if not running:  # all is done, or needs a task that failed
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task, started = running.pop(future)
                    advance(1)
                    if failure := _failure(future, task, folder):
                        failures.append(failure)
                        if isinstance(future.exception(), BrokenExecutor):  # no worker is left
                            raise ImplicitPRMError("\n".join(failures))
                        continue
                    seconds[task.name] = time.perf_counter() - started
                    record = _record(folder / task.name) | {"seconds": seconds[task.name]}
                    write_json(folder / task.name / RECORD, record)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return {name: taken for name, taken in seconds.items() if taken is not None}, failures


def finished(tasks: Sequence[Task], folder: Path) -> dict[str, float]:
    """Seconds that each task took, for those that are done."""
    hashes = _hashes(tasks)
    seconds = {task.name: _seconds(folder / task.name, hashes[task.name]) for task in tasks}
    return {name: taken for name, taken in seconds.items() if taken is not None}


def command_line(task: Task, folder: Path) -> str:
    """The shell command of a task. Measuring has none, so it is the `ipr-eval` command on the same candidates."""
    return shlex.join([work.COMMANDS[task.command].program, *_overrides(task, folder)])


def _overrides(task: Task, folder: Path) -> list[str]:
    """The overrides with the folders of tasks filled in, and with the task's own folder as the output."""
    command = work.COMMANDS[task.command]
    folders = {name: folder / name for name in task.needs} | {"study": folder}
    overrides = []
    for override in task.overrides:
        key, _, value = override.partition("=")
        filled = value
        for name, path in folders.items():
            filled = filled.replace(f"{{{name}}}", str(path))
        overrides.append(override if filled == value else f"{key}={_quoted(filled)}")
    return [*overrides, f"{command.output}={_quoted(f'{folder / task.name}{command.file}')}"]


def _quoted(path: str) -> str:
    """The path quoted for Hydra if it needs to be."""
    if re.fullmatch(r"[\w./-]+", path):
        return path
    return "'" + path.replace("'", "\\'") + "'"


def _pool(jobs: int) -> ProcessPoolExecutor:
    # Spawned, since a fork of a process that has used torch's threads may hang. The cores are divided among the
    # processes: two small models, each on one core, are faster than one after the other on both.
    threads = max(1, usable_cores() // jobs)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, context, initializer=work.start, initargs=(threads,))


def _hashes(tasks: Sequence[Task]) -> dict[str, str]:
    """The hash of every task: of its command, its overrides, and the hashes of the tasks that it needs."""
    hashes: dict[str, str] = {}
    for task in tasks:
        content = json.dumps([task.command, task.overrides, [hashes[name] for name in task.needs]])
        hashes[task.name] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return hashes


def _record(folder: Path) -> dict[str, Any]:
    """The record in a folder; empty if no task has started there."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _seconds(folder: Path, identity: str) -> float | None:
    """Seconds that the task took; None if it is not done."""
    record = _record(folder)
    return record.get("seconds") if record.get("identity") == identity else None


def _prepare(folder: Path, record: dict[str, Any]) -> None:
    """Write the task's record, after removing the files of any other task. Folders of tasks inside it stay."""
    folder.mkdir(parents=True, exist_ok=True)
    if _record(folder).get("identity") != record["identity"]:
        for path in folder.iterdir():
            if not path.is_dir():
                path.unlink()
            elif not (path / RECORD).exists():
                shutil.rmtree(path)
    write_json(folder / RECORD, record)


def _failure(future: Future[None], task: Task, folder: Path) -> str | None:
    """What to say of a task that failed; None if it has not."""
    error = future.exception()
    if error is None:
        return None
    if not isinstance(error, Exception):  # Ctrl-C
        raise error
    log = folder / task.name / work.LOG
    return f"{task.name} failed: {error}\n  output: {log}\n  to run it alone: {command_line(task, folder)}"
