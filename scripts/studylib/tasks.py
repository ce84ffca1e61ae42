"""Tasks with what they need before them, run by a few processes at once. What is done is not done again.

A task is one command of this package with its overrides, in a folder of its own, where `task.json` names it by a hash
of the command and of all that it needs. What another one has left there is removed; one that was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import shlex
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from implicit_prm import ImplicitPRMError
from implicit_prm.utils.io import write_json
from studylib import work

RECORD = "task.json"


@dataclass(frozen=True)
class Task:
    """A command of `work.COMMANDS`; `needs` are names of tasks.

    In an override, `{NAME}` is the folder of a task that is needed, and `{study}` that of the study.
    """

    name: str
    command: str
    overrides: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


def run(tasks: Sequence[Task], folder: Path, jobs: int) -> dict[str, float]:
    """Do what is not done, `jobs` at a time.

    Returns:
        Seconds that each task took, now or before.

    Raises:
        ImplicitPRMError: a task failed. Those that were running have ended, and the same call goes on from there.
    """
    identities = _identities(tasks)
    seconds = {task.name: _seconds(folder / task.name, identities[task.name]) for task in tasks}
    waiting = [task for task in tasks if seconds[task.name] is None]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress, _pool(jobs) as pool:
        bar = progress.add_task("study", total=len(tasks), completed=len(tasks) - len(waiting))
        running: dict[Future[None], tuple[Task, float]] = {}
        try:
            while waiting or running:
                for task in [one for one in waiting if all(seconds[name] is not None for name in one.needs)]:
                    if len(running) == jobs:
                        break
                    waiting.remove(task)
                    _begin(
                        folder / task.name, {"identity": identities[task.name], "command": command_line(task, folder)}
                    )
                    future = pool.submit(work.do, task.command, _overrides(task, folder), folder / task.name)
                    running[future] = task, time.perf_counter()
                progress.update(bar, description=", ".join(task.name for task, _ in running.values()))
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task, started = running.pop(future)
                    _check(future, task, folder)
                    seconds[task.name] = time.perf_counter() - started
                    record = _record(folder / task.name) | {"seconds": seconds[task.name]}
                    write_json(folder / task.name / RECORD, record)
                    progress.advance(bar)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return {name: taken for name, taken in seconds.items() if taken is not None}


def command_line(task: Task, folder: Path) -> str:
    """What to type to do the same by hand; measuring has no command, so it is that of the evaluation it reads."""
    return shlex.join([work.COMMANDS[task.command].program, *_overrides(task, folder)])


def _overrides(task: Task, folder: Path) -> list[str]:
    """With the folders of other tasks filled in, and the task's own as the place for what it writes."""
    command, places = work.COMMANDS[task.command], {name: folder / name for name in task.needs} | {"study": folder}
    found = []
    for override in task.overrides:
        key, _, value = override.partition("=")
        filled = value
        for name, place in places.items():
            filled = filled.replace(f"{{{name}}}", str(place))
        found.append(override if filled == value else f"{key}={_quoted(filled)}")
    return [*found, f"{command.output}={_quoted(f'{folder / task.name}{command.file}')}"]


def _quoted(path: str) -> str:
    """A path as Hydra reads it whatever is in it."""
    if re.fullmatch(r"[\w./-]+", path):
        return path
    return "'" + path.replace("'", "\\'") + "'"


def _pool(jobs: int) -> ProcessPoolExecutor:
    # Spawned: a fork of a process that has used torch's threads may hang. The cores are shared out, as two small models
    # side by side are faster than one after the other on both.
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, context, initializer=work.start, initargs=(threads,))


def _identities(tasks: Sequence[Task]) -> dict[str, str]:
    """Of every task in order; a change of what a task needs changes its own."""
    found: dict[str, str] = {}
    for task in tasks:
        told = json.dumps([task.command, task.overrides, [found[name] for name in task.needs]])
        found[task.name] = hashlib.sha256(told.encode()).hexdigest()[:16]
    return found


def _record(folder: Path) -> dict[str, Any]:
    """What is known of the task in a folder; nothing if none has begun there."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _seconds(folder: Path, identity: str) -> float | None:
    """How long the task took; None if it is to be done."""
    record = _record(folder)
    return record.get("seconds") if record.get("identity") == identity else None


def _begin(folder: Path, record: dict[str, Any]) -> None:
    """Name the task in its folder, without what another has left there. Tasks in folders below have their own say."""
    folder.mkdir(parents=True, exist_ok=True)
    if _record(folder).get("identity") != record["identity"]:
        for left in folder.iterdir():
            if not left.is_dir():
                left.unlink()
            elif not (left / RECORD).exists():
                shutil.rmtree(left)
    write_json(folder / RECORD, record)


def _check(future: Future[None], task: Task, folder: Path) -> None:
    error = future.exception()
    if error is None:
        return
    if not isinstance(error, Exception):  # an interruption
        raise error
    log = folder / task.name / work.LOG
    raise ImplicitPRMError(
        f"{task.name} failed: {error}\n  its output: {log}\n  to repeat it alone: {command_line(task, folder)}"
    ) from error
