"""E_ref[exp(q / beta)] = 1: by hand, and on samples whose ratio is known."""

import math

import numpy as np
import pytest

from implicit_prm.evaluation.best_of_n.reference_test import log_mean, reference_test
from implicit_prm.types import StepScores


def _score(*prefixes):
    return StepScores("", [], [0.0] * len(prefixes), list(prefixes))


def test_by_hand():
    """Beta 0.5. Ratios at step one: 2, 1, 1/2; at step two: 4, 1, 1 (the third response ended after one step: 1/2)."""
    log2 = 0.5 * math.log(2)
    scores = [[_score(log2, 2 * log2), _score(0.0, 0.0)], [_score(-log2), StepScores("", [], [])]]
    first, second, end = reference_test(scores, 0.5, 100, 0)
    assert [row["step"] for row in (first, second, end)] == ["1", "2", "end"]
    assert first["log_mean"]["value"] == pytest.approx(math.log(3.5 / 3))
    assert second["log_mean"]["value"] == end["log_mean"]["value"] == pytest.approx(math.log(5.5 / 3))
    assert first["effective_responses"] == pytest.approx(3.5**2 / (4 + 1 + 1 / 4))
    assert first["responses"] == 3
    assert reference_test([[StepScores("", [], [0.5], kind="probability")]], 1.0, 10, 0) == []


def _ratios(rng, sampler, policy, reference, size):
    """log(policy / reference) of draws from `sampler`."""
    drawn = rng.choice(len(sampler), size=size, p=sampler)
    return np.log(policy[drawn] / reference[drawn])


def test_it_tells_samples_of_the_reference_from_others():
    rng = np.random.default_rng(0)
    policy, reference = np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.3, 0.4])
    own = log_mean([_ratios(rng, reference, policy, reference, 8) for _ in range(200)], 500, 0)
    assert own.low < 0 < own.high
    foreign = log_mean([_ratios(rng, policy, policy, reference, 8) for _ in range(200)], 500, 0)
    assert foreign.low > 0.05


def test_large_ratios_do_not_overflow():
    found = log_mean([np.array([1000.0, 0.0]), np.array([-1000.0, 1000.0])], 50, 0)
    assert found.value == pytest.approx(1000 + math.log(0.5))
