"""Work in threads: every result once; a failure ends the work, but not that in progress."""

import threading

import pytest

from implicit_prm.rollouts.workers import in_threads


def test_every_item_is_worked_on_once():
    assert sorted(in_threads(range(20), lambda item: item * item, 3)) == [item * item for item in range(20)]
    assert list(in_threads([], str, 3)) == []


def test_results_may_be_none():
    assert list(in_threads([1, 2], lambda item: None, 2)) == [None, None]


def test_work_in_progress_is_finished_after_a_failure():
    failed, started = threading.Event(), []

    def work(item):
        started.append(item)
        if item == 0:
            failed.set()
            raise ValueError("zero")
        failed.wait(10)
        return item

    found = []
    with pytest.raises(ValueError, match="zero"):
        found.extend(in_threads(range(50), work, 2))
    assert sorted([0, *found]) == sorted(started)
    assert len(started) < 50
