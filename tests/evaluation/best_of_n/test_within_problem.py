"""AUROC within problems, by hand."""

import numpy as np
import pytest

from implicit_prm.evaluation.best_of_n.within_problem import within_problem_auroc
from implicit_prm.evaluation.selection import Candidates


def _candidates(correct, valid=None):
    size = len(correct)
    return Candidates(np.array(correct, bool), np.zeros(size, int), np.array(valid or [True] * size))


def test_by_hand():
    """Problem one: right 3, 1 against wrong 2, 1: 2.5 of 4. Problem two: 1 of 1. Problem three: none is wrong."""
    candidates = [_candidates([1, 1, 0, 0]), _candidates([1, 0]), _candidates([1, 1])]
    values = [np.array([3.0, 1.0, 2.0, 1.0]), np.array([-5.0, -7.0]), np.array([0.0, 1.0])]
    (found,) = within_problem_auroc(candidates, {"sum": values}, 500, 0).values()
    assert found["value"] == pytest.approx((2.5 / 4 + 1) / 2)
    assert found["problems"] == 2
    assert (found["low"], found["high"]) == (pytest.approx(2.5 / 4), pytest.approx(1.0))  # one problem drawn twice


def test_the_level_of_a_problem_does_not_matter():
    """Pooled, the high scores of a hopeless problem would beat the right response of the other."""
    candidates = [_candidates([0, 0]), _candidates([1, 0])]
    values = [np.array([9.0, 8.0]), np.array([1.0, 0.0])]
    assert within_problem_auroc(candidates, {"sum": values}, 50, 0)["sum"]["value"] == 1.0


def test_responses_that_cannot_be_picked_are_left_out():
    candidates = [_candidates([1, 0, 0, 0], [True, True, False, True])]
    values = [np.array([1.0, 2.0, 0.0, -np.inf])]
    assert within_problem_auroc(candidates, {"sum": values}, 50, 0)["sum"]["value"] == 0.0


def test_without_a_problem_of_both_kinds_nothing_is_claimed():
    found = within_problem_auroc([_candidates([1, 1])], {"sum": [np.array([1.0, 2.0])]}, 50, 0)["sum"]
    assert found == {"value": None, "low": None, "high": None, "problems": 0}


def test_the_first_ranking_is_compared_with_the_others_on_the_same_problems():
    """Problem one: 1 against 0. Problem two: 0.5 against nothing, since the other ranking has no score there."""
    candidates = [_candidates([1, 0]), _candidates([1, 0])]
    ours = [np.array([2.0, 1.0]), np.array([1.0, 1.0])]
    theirs = [np.array([1.0, 2.0]), np.array([-np.inf, 1.0])]
    found = within_problem_auroc(candidates, {"ours": ours, "theirs": theirs}, 50, 0)
    assert found["ours"]["value"] == pytest.approx(0.75)
    assert "difference" not in found["ours"]
    assert found["theirs"]["difference"] == {"value": 1.0, "low": 1.0, "high": 1.0, "problems": 1}
