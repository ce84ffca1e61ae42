"""Correlation with length, and what is left of a score without it, by hand."""

import numpy as np
import pytest

from implicit_prm.evaluation.best_of_n.length import (
    length_effects,
    lengths_of,
    matched_auroc,
    pooled_rank_correlation,
    rank_correlation,
    ranks,
    without_length,
)
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.types import StepScores


def _candidates(correct, valid=None):
    size = len(correct)
    return Candidates(np.array(correct, bool), np.zeros(size, int), np.array(valid or [True] * size))


def _array(*values):
    return np.array(values, dtype=float)


def test_ranks_share_ties():
    assert ranks(_array(3, 1, 3, 9)).tolist() == [1.5, 0.0, 1.5, 3.0]


def test_rank_correlation_by_hand():
    assert rank_correlation(_array(1, 5, 100), _array(2, 3, 4)) == pytest.approx(1.0)
    assert rank_correlation(_array(1, 2, 3), _array(7, 9, 8)) == pytest.approx(0.5)  # 1 - 6 * 2 / (3 * 8)
    assert np.isnan(rank_correlation(_array(1, 1), _array(1, 2)))
    assert np.isnan(rank_correlation(_array(), _array()))


def test_pooled_correlation_by_hand():
    """Rising within both problems, but the problem with the longer responses has the lower scores."""
    values, lengths = [_array(10, 11), _array(0, 1)], [_array(1, 2), _array(8, 9)]
    found = pooled_rank_correlation(values, lengths, 200, 0)
    assert found["value"] == pytest.approx(rank_correlation(_array(10, 11, 0, 1), _array(1, 2, 8, 9)))
    assert found["value"] == pytest.approx(-0.6)
    assert (found["low"], found["high"]) == (pytest.approx(-0.6), pytest.approx(1.0))  # one problem drawn twice


def test_pairs_of_equal_length_only():
    """Right: 3 at length 100, 0 at 50. Wrong: 1 at 95, 3 at 110, 2 at 50. Pairs within 10 %: 3 > 1, 3 = 3, 0 < 2."""
    values, lengths = _array(3, 0, 1, 3, 2), _array(100, 50, 95, 110, 50)
    assert matched_auroc(values, np.array([1, 1, 0, 0, 0], bool), lengths) == pytest.approx(1.5 / 3)
    assert np.isnan(matched_auroc(_array(1, 2), np.array([1, 0], bool), _array(10, 20)))


def test_effects_of_a_score_that_is_length():
    candidates = [_candidates([1, 0, 0]), _candidates([1, 0], [True, False])]
    lengths = [_array(10, 20, 30), _array(40, 50)]
    (found,) = length_effects(candidates, {"length": lengths}, lengths, 100, 0).values()
    assert found["pooled"]["value"] == pytest.approx(1.0)
    # The second problem has one response that can be picked, hence no correlation.
    assert (found["within_problems"]["value"], found["within_problems"]["problems"]) == (pytest.approx(1.0), 1)
    assert found["auroc_matched"] == {"value": None, "low": None, "high": None, "problems": 0}


def test_without_length_by_hand():
    """One slope for both problems, 2 a token; a response that cannot be picked has no say in it."""
    candidates = [_candidates([1, 0, 0], [True, True, False]), _candidates([1, 0])]
    lengths = [_array(1, 2, 3), _array(10, 13)]
    left = without_length(candidates, [_array(5, 7, 99), _array(0, 6)], lengths)
    assert np.diff(left[0][:2]) == pytest.approx(0.0)
    assert np.diff(left[1]) == pytest.approx(0.0)
    same = without_length([_candidates([1, 0])], [_array(1, -np.inf)], [_array(4, 4)])
    assert same[0].tolist() == [1.0, -np.inf]


def test_length_is_in_tokens_where_all_are_known():
    known, unknown = StepScores("four", [], [1.0], step_tokens=[3]), StepScores("four", [], [1.0])
    assert [(some[0].tolist(), unit) for some, unit in (lengths_of([[known]]), lengths_of([[known, unknown]]))] == [
        ([3.0], "tokens"),
        ([4.0, 4.0], "characters"),
    ]
