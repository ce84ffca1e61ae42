"""Positions of the lowest step, by hand."""

import numpy as np
import pytest

from implicit_prm.evaluation.best_of_n.figures import lowest_step_figure
from implicit_prm.evaluation.best_of_n.lowest_step import last_step_share, lowest_step_positions
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.types import StepScores


def _found(*problems):
    """Problems as lists of (right, step rewards)."""
    candidates = [
        Candidates(np.array([right for right, _ in some]), np.zeros(len(some), int), np.ones(len(some), bool))
        for some in problems
    ]
    scores = [[StepScores("", [], rewards, rewards) for _, rewards in some] for some in problems]
    return lowest_step_positions(candidates, scores, 100, 0)


def test_positions_by_hand():
    found = _found(
        [(True, [-1.0, 0.0, 0.0]), (True, [0.0, 0.0, -1.0]), (True, [0.0, -1.0, -1.0])],
        [(False, [0.0, -1.0]), (False, [5.0]), (True, [])],
    )
    right, wrong = found["right"], found["wrong"]
    assert (right["responses"], wrong["responses"], found["left_out"]) == (3, 1, 2)
    assert right["positions"] == pytest.approx([1 / 3, 0, 0, 0, 0, 1 / 3, 0, 0, 0, 1 / 3])  # of equals, the first
    assert right["even"] == pytest.approx([1 / 3, 0, 0, 0, 0, 1 / 3, 0, 0, 0, 1 / 3])
    assert (right["last"]["value"], right["last_by_chance"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert wrong["positions"] == [0] * 9 + [1]
    assert wrong["even"] == [0.5] + [0] * 8 + [0.5]
    assert (wrong["last"]["value"], wrong["last_by_chance"]) == (1.0, 0.5)


def test_more_steps_than_bins_are_spread_over_them():
    found = _found([(True, [float(step != 20) for step in range(21)])])["right"]
    assert found["even"] == pytest.approx([2 / 21] * 9 + [3 / 21])
    assert found["positions"] == [0] * 9 + [1]


def test_without_responses_of_a_kind_nothing_is_claimed():
    found = _found([(True, [1.0, 2.0])])
    assert found["wrong"]["responses"] == 0
    assert found["wrong"]["last"] == {"value": None, "low": None, "high": None}
    assert found["wrong"]["last_by_chance"] is None
    labels = lowest_step_figure({"lowest_step": found}).axes[0].get_legend_handles_labels()[1]
    assert "wrong: 0 responses" in labels


def test_the_share_of_the_last_step_by_hand():
    """|rewards| 1, 3 and 2, 2, 4; even shares 2 and 8/3. A response of one step has no position."""
    scores = [[StepScores("", [], [1.0, -3.0]), StepScores("", [], [9.0])], [StepScores("", [], [-2.0, 2.0, 4.0])]]
    found = last_step_share(scores, 50, 0)
    assert found["value"] == pytest.approx(7 / 12)
    assert found["even"] == pytest.approx((2 + 8 / 3) / 12)
    assert last_step_share([[StepScores("", [], [0.5, 0.5], kind="probability")]], 50, 0) == {}
    assert last_step_share([[StepScores("", [], [0.0, 0.0])]], 50, 0) == {}
