"""The queue: what is scored together, in which order, and what happens to the others when one fails."""

import threading
from concurrent.futures import CancelledError

import pytest

from implicit_prm.serving.scoring_queue import QueueFullError, ScoringQueue, StoppedError
from implicit_prm.types import Group, ImplicitPRMError, StepScores


def group(prompt, *responses):
    return Group("g", prompt, list(responses), [None] * len(responses), [True] * len(responses))


class Scoring:
    """Scores a response by its text, as a number. The first call waits until it may go on."""

    def __init__(self):
        self.calls, self.batches = [], []
        self.started, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, scored):
        self.calls.append((scored.prompt, scored.completions))
        self.started.set()
        assert self.may_go_on.wait(10)
        if "bad" in scored.completions:
            raise ImplicitPRMError("bad")
        return [StepScores(text, [], [float(text)]) for text in scored.completions]


@pytest.fixture
def busy():
    """A queue whose thread is busy with a first group, and what it calls."""
    scoring = Scoring()
    queue = ScoringQueue(scoring, 10, lambda requests, responses: scoring.batches.append((requests, responses)))
    queue.submit([group("first", "0")])
    assert scoring.started.wait(10)
    yield queue, scoring
    scoring.may_go_on.set()
    queue.join()


def values(future):
    return [one.step_rewards[0] for one in future.result(10)]


def test_groups_of_one_prompt_that_wait_are_scored_together(busy):
    queue, scoring = busy
    a, b = queue.submit([group("a", "1", "2"), group("b", "3")])
    (more,) = queue.submit([group("a", "4")])
    assert len(queue) == 4
    scoring.may_go_on.set()
    assert (values(a), values(b), values(more)) == ([1, 2], [3], [4])
    assert scoring.calls[1:] == [("a", ["1", "2", "4"]), ("b", ["3"])]
    assert scoring.batches == [(1, 1), (2, 3), (1, 1)]
    assert len(queue) == 0


def test_only_the_group_with_the_mistake_fails(busy):
    queue, scoring = busy
    good, bad, other = queue.submit([group("a", "1"), group("a", "bad"), group("a", "2")])
    scoring.may_go_on.set()
    assert (values(good), values(other)) == ([1], [2])
    with pytest.raises(ImplicitPRMError, match="bad"):
        bad.result(10)


def test_a_full_queue_takes_all_groups_of_a_request_or_none(busy):
    queue, scoring = busy
    queue.submit([group("a", *"12345678")])
    with pytest.raises(QueueFullError):
        queue.submit([group("b", "9", "10"), group("c", "11")])
    assert len(queue) == 8
    (last,) = queue.submit([group("b", "9", "10")])
    scoring.may_go_on.set()
    assert values(last) == [9, 10]


def test_what_is_cancelled_before_its_turn_is_not_scored(busy):
    queue, scoring = busy
    cancelled, other, alone = queue.submit([group("a", "1"), group("a", "2"), group("b", *"3456789")])
    assert cancelled.cancel()
    assert alone.cancel()
    assert len(queue) == 1
    (late,) = queue.submit([group("c", *"3456789")])  # there is room
    assert late.cancel()
    scoring.may_go_on.set()
    assert values(other) == [2]
    assert scoring.calls[1:] == [("a", ["2"])]
    with pytest.raises(CancelledError):
        cancelled.result(10)


def test_a_closed_queue_finishes_what_waits_and_takes_no_more(busy):
    queue, scoring = busy
    (waiting,) = queue.submit([group("a", "1")])
    queue.close()
    assert not queue.alive
    with pytest.raises(StoppedError):
        queue.submit([group("a", "2")])
    scoring.may_go_on.set()
    queue.join()
    assert values(waiting) == [1]
