"""Shares of the reward by class of token and by position, by hand."""

import numpy as np
import pytest

from implicit_prm.evaluation.best_of_n.token_rewards import token_rewards
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.rewards.attribution import token_sums
from implicit_prm.types import StepScores, StepSpan


def _score(digit, word):
    """The response "1 a" of two tokens with these rewards."""
    spans = [StepSpan(0, 1), StepSpan(1, 3)]
    return StepScores("1 a", [], [digit + word], token_sums=token_sums("1 a", spans, [digit, word]))


def test_by_hand():
    """The digits rank both problems' right response first, the words last."""
    candidates = [Candidates(np.array([True, False]), np.zeros(2, int), np.array([True, True]))] * 2
    scores = [[_score(3.0, -1.0), _score(1.0, 0.0)], [_score(2.0, -2.0), _score(-1.0, 0.0)]]
    found = token_rewards(candidates, scores, 100, 0)
    digits, words = found["classes"]["digits"], found["classes"]["words"]
    assert digits["tokens"]["value"] == words["tokens"]["value"] == 0.5
    assert digits["magnitude"]["value"] == pytest.approx(7 / 10)
    # Problem one alone: 4 of 5; problem two alone: 3 of 5.
    assert (digits["magnitude"]["low"], digits["magnitude"]["high"]) == (pytest.approx(3 / 5), pytest.approx(4 / 5))
    assert digits["mean"]["value"] == pytest.approx(5 / 4)
    assert words["mean"]["value"] == pytest.approx(-3 / 4)
    assert (digits["auroc"]["value"], words["auroc"]["value"]) == (1.0, 0.0)
    assert found["classes"]["newlines"]["mean"]["value"] is None
    # Tokens 0 and 1 of 2 are in tenths 0 and 5.
    assert found["tenths"]["magnitude"] == pytest.approx([0.7, 0, 0, 0, 0, 0.3, 0, 0, 0, 0])
    assert found["tenths"]["tokens"] == [0.5, 0, 0, 0, 0, 0.5, 0, 0, 0, 0]
    assert found["responses"] == 4


def test_responses_without_token_rewards():
    candidates = [Candidates(np.array([True, False]), np.zeros(2, int), np.array([True, True]))]
    assert token_rewards(candidates, [[StepScores("1", [], [1.0])] * 2], 10, 0) == {}
    found = token_rewards(candidates, [[_score(3.0, -1.0), StepScores("", [], [])]], 10, 0)
    assert found["responses"] == 1
    assert found["classes"]["digits"]["auroc"]["problems"] == 0
