"""Figures of a rewrite, by hand."""

import numpy as np
import pytest

from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.shift.metrics import of_problem, shift_effects


def _problem(correct, scores, places):
    c = Candidates(np.array(correct, bool), np.zeros(len(correct), int), np.ones(len(correct), bool))
    return of_problem(c, np.array(scores, float), places)


def test_figures_by_hand():
    """Problem one: 3, 2, 1 become 1, 2, 4, so the right first response is no longer picked. Problem two: unchanged."""
    one = _problem([1, 0, 0], [3, 2, 1, 1, 2, 4], {0: 3, 1: 4, 2: 5})
    two = _problem([0, 1], [0, 1, 0, 1], {0: 2, 1: 3})
    found = shift_effects([one, two], [["a", "b", "c"], ["a", "b"]], 50, 0)
    assert (found["responses"], found["problems"]) == (5, 2)
    assert found["rank_correlation"]["value"] == pytest.approx((-1 + 1) / 2)
    assert found["flips"]["value"] == 0.5
    assert [found["accuracy"][side]["value"] for side in ("before", "after", "difference")] == [1.0, 0.5, -0.5]
    assert [found["auroc"][side]["value"] for side in ("before", "after", "difference")] == [1.0, 0.5, -0.5]
    assert found["change"]["value"] == pytest.approx((-2 + 0 + 3 + 0 + 0) / 5)
    assert found["deviation"] == pytest.approx(((1 + 0 + 1 + 0.25 + 0.25) / 5) ** 0.5)


def test_only_rewritten_and_scored_responses_count():
    """The best response was not rewritten, the second lost its score; the third alone has no ranking."""
    one = _problem([1, 0, 0], [9, 5, 1, -np.inf, 2], {1: 3, 2: 4})
    found = shift_effects([one, _problem([1], [1], {})], [["a", "b", "c"], ["a"]], 50, 0)
    assert (found["responses"], found["problems"], found["change"]["value"]) == (1, 0, 1.0)
    assert found["accuracy"]["before"]["value"] is None
    assert found["flips"]["value"] is None


def test_another_response_with_the_same_text_is_no_flip():
    one = _problem([1, 1], [2, 1, 1, 2], {0: 2, 1: 3})
    assert shift_effects([one], [["same", "same"]], 50, 0)["flips"]["value"] == 0.0
    assert shift_effects([one], [["same", "other"]], 50, 0)["flips"]["value"] == 1.0
