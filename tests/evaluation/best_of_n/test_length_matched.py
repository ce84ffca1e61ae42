"""The best among responses of about the same length, by hand."""

import numpy as np
import pytest

from implicit_prm.evaluation.best_of_n.length_matched import length_matched
from implicit_prm.evaluation.selection import Candidates


def _found(*problems):
    """Problems as (correct, ranked scores, lengths)."""
    correct, ranked, lengths = zip(*problems, strict=True)
    candidates = [Candidates(np.array(c, bool), np.zeros(len(c), int), np.ones(len(c), bool)) for c in correct]
    scores, sizes = ([np.array(one, float) for one in some] for some in (ranked, lengths))
    return length_matched(candidates, scores, sizes, 50, 0)


def test_by_hand():
    """Lengths 100, 105 and 200: the first two are picked from together, the third alone."""
    found = _found(([1, 0, 0], [1, 2, 3], [100, 105, 200]))
    assert found["responses"] == pytest.approx((2 + 2 + 1) / 3)
    assert found["picked"]["value"] == 0.0  # the wrong one of each pair, and the wrong long one
    # Of the pairs of any length none is won by the right response; one of any length is right with probability 1/3.
    assert found["any_length"]["value"] == pytest.approx((0 + 0 + 1 / 3) / 3)
    assert found["random"]["value"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert found["difference"]["value"] == pytest.approx(-1 / 9)
    assert found["gain"]["value"] == pytest.approx(-1 / 3)


def test_a_score_that_is_length_gains_nothing():
    """Short responses are right: picking the shortest is perfect, and worthless among responses of one length."""
    short, long = ([1, 1, 0, 0], [0, 0, -9, -9], [10, 10, 90, 90]), ([1, 0, 1, 0], [0, 0, -9, -9], [10, 10, 90, 90])
    first, second = _found(short), _found(long)
    assert first["any_length"]["value"] > first["picked"]["value"] == first["random"]["value"] == 0.5
    assert second["gain"]["value"] == 0.0  # equal scores share


def test_a_response_that_must_not_be_picked():
    found = _found(([1, 0], [-np.inf, 0], [10, 10]), ([1, 0], [-np.inf, -np.inf], [10, 10]))
    assert found["picked"]["value"] == pytest.approx((0 + 1 / 2) / 2)
