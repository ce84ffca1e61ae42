"""Bins of the score, by hand."""

import numpy as np
import pytest

from implicit_prm.evaluation.best_of_n.figures import reliability_figure
from implicit_prm.evaluation.best_of_n.reliability import reliability
from implicit_prm.evaluation.selection import Candidates


def _candidates(correct, valid=None):
    size = len(correct)
    return Candidates(np.array(correct, bool), np.zeros(size, int), np.array(valid or [True] * size))


def test_equally_many_responses_to_a_bin():
    """Scores 1 to 4 and 5 to 8 in two problems; of the lower four one is right, of the higher four three."""
    candidates = [_candidates([0, 1, 1, 0]), _candidates([0, 0, 1, 1])]
    values = [np.array([1.0, 2.0, 7.0, 8.0]), np.array([3.0, 4.0, 5.0, 6.0])]
    found = reliability(candidates, values, 200, 0, bins=2)
    assert found["left_out"] == 0
    assert [(one["low"], one["high"], one["responses"]) for one in found["bins"]] == [(1.0, 5.0, 4), (5.0, 8.0, 4)]
    assert [one["right"]["value"] for one in found["bins"]] == [1 / 4, 3 / 4]
    # A resample holds problem one twice, problem two twice, or both: 1/2, 0 or 1/4 of the lower bin.
    assert found["bins"][0]["right"]["low"] == 0.0
    assert found["bins"][0]["right"]["high"] == 0.5


def test_equal_scores_share_a_bin_and_none_is_empty():
    values = [np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.0])]
    found = reliability([_candidates([0, 0, 0, 0, 1, 1])], values, 50, 0)
    assert [one["responses"] for one in found["bins"]] == [5, 1]
    assert [one["right"]["value"] for one in found["bins"]] == [pytest.approx(0.2), 1.0]
    (only,) = reliability([_candidates([0, 1])], [np.array([2.0, 2.0])], 50, 0)["bins"]
    assert (only["responses"], only["right"]["value"]) == (2, 0.5)


def test_what_cannot_be_picked_is_in_no_bin():
    candidates = [_candidates([1, 1, 0], [True, False, True])]
    found = reliability(candidates, [np.array([1.0, 9.0, -np.inf])], 50, 0)
    assert (found["left_out"], [one["responses"] for one in found["bins"]]) == (2, [1])
    assert reliability([_candidates([0], [False])], [np.array([1.0])], 50, 0) == {"bins": [], "left_out": 1}


def test_the_figure_counts_the_responses():
    bins = reliability([_candidates([0, 1, 1, 1])], [np.arange(4.0)], 50, 0, bins=2)
    metrics = {"reliability": bins, "aggregate": "min over step", "sizes": [1, 4]}
    figure = reliability_figure(metrics | {"accuracy": {"random pick": {"1": {"value": 0.75}}}})
    assert [patch.get_height() for patch in figure.axes[1].patches] == [2, 2]
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["0", "2", "3"]
