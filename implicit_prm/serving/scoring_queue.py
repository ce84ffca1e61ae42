"""A queue with one thread that scores. Requests of one prompt that wait are scored together, in one shared prompt."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

from implicit_prm.scoring.scorers import ScoreGroup
from implicit_prm.types import Group, StepScores

# Called with the number of requests and of responses that are scored together.
Observe = Callable[[int, int], None]


class QueueFullError(Exception):
    """No room for this request; it may be sent again later."""


class StoppedError(Exception):
    """The queue takes no more requests."""


@dataclass(frozen=True, eq=False)
class _Job:
    group: Group
    scores: Future[list[StepScores]] = field(default_factory=Future)


class ScoringQueue:
    """Groups that wait to be scored, and the thread that scores them.

    The thread takes the prompt that has waited longest, with all of its groups that are waiting by then. Nothing waits
    for others to arrive, so a single request is scored at once.

    Args:
        score: scores one group.
        limit_responses: number of responses that may wait.
        observe: called before every call of `score`.
    """

    def __init__(self, score: ScoreGroup, limit_responses: int, observe: Observe = lambda requests, responses: None):
        self._score, self._limit, self._observe = score, limit_responses, observe
        self._waiting: dict[str, list[_Job]] = {}  # by prompt, the longest waiting first
        self._responses = 0
        self._open = True
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Number of responses that wait."""
        return self._responses

    @property
    def alive(self) -> bool:
        """Whether groups are accepted and scored."""
        return self._open and self._thread.is_alive()

    def submit(self, groups: Sequence[Group]) -> list[Future[list[StepScores]]]:
        """Add all of the groups, or none of them.

        Returns:
            The scores of each group. A future that is cancelled before its turn leaves the queue, and is not computed.

        Raises:
            QueueFullError: there is no room for all of them.
            StoppedError: the queue is closed.
        """
        jobs = [_Job(group) for group in groups]
        with self._changed:
            if not self.alive:
                raise StoppedError
            added = sum(map(len, groups))
            if self._responses + added > self._limit:
                raise QueueFullError
            for job in jobs:
                self._waiting.setdefault(_key(job.group), []).append(job)
            self._responses += added
            self._changed.notify()
        for job in jobs:
            job.scores.add_done_callback(partial(self._remove_if_cancelled, job))
        return [job.scores for job in jobs]

    def close(self) -> None:
        """Accept no more groups. Those that wait are still scored."""
        with self._changed:
            self._open = False
            self._changed.notify()

    def join(self) -> None:
        """Close the queue, and wait until everything in it is scored."""
        self.close()
        self._thread.join()

    def _remove_if_cancelled(self, job: _Job, scores: Future[list[StepScores]]) -> None:
        """Make room for others at once. A job whose turn has just come is left to `_run`."""
        if not scores.cancelled():
            return
        key = _key(job.group)
        with self._changed:
            jobs = self._waiting.get(key, [])
            if job in jobs:
                jobs.remove(job)
                self._responses -= len(job.group)
                if not jobs:
                    del self._waiting[key]

    def _run(self) -> None:
        while jobs := self._next():
            self._answer([job for job in jobs if job.scores.set_running_or_notify_cancel()])

    def _next(self) -> list[_Job]:
        """All groups of the prompt that has waited longest; none once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._open)
            if not self._waiting:
                return []
            jobs = self._waiting.pop(next(iter(self._waiting)))
            self._responses -= sum(len(job.group) for job in jobs)
            return jobs

    def _answer(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        group = _joined([job.group for job in jobs])
        self._observe(len(jobs), len(group))
        try:
            scores = iter(self._score(group))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].scores.set_exception(error)
                return
            for job in jobs:  # only the one that caused the error shall fail
                self._answer([job])
            return
        for job in jobs:
            job.scores.set_result([next(scores) for _ in job.group.completions])


def _key(group: Group) -> str:
    return json.dumps([group.prompt, group.steps is None])


def _joined(groups: Sequence[Group]) -> Group:
    """The responses of groups with one prompt, as one group."""
    if len(groups) == 1:
        return groups[0]
    return replace(
        groups[0],
        completions=[text for group in groups for text in group.completions],
        correctness=[label for group in groups for label in group.correctness],
        finished=[done for group in groups for done in group.finished],
        steps=None if groups[0].steps is None else [steps for group in groups for steps in group.steps or []],
    )
