"""Counts, metrics and thresholds, by hand and against brute force."""

import numpy as np
import pytest

from implicit_prm.evaluation.step_benchmarks.judgement import (
    Counts,
    balanced_f1,
    counts_at,
    cross_fitted,
    prm_score,
    taken,
    true_rates,
)


def _counts(*sides):
    return Counts(*(np.array(side, dtype=float) for side in sides))


def test_prm_score_by_hand():
    """F1 of right steps 6/8, of wrong steps 4/6; a class without wrong steps has the first alone."""
    found = prm_score(_counts([3, 2, 0, 0], [1, 0, 1, 0], [2, 0, 1, 0], [1, 2, 0, 0]))
    assert found[:3] == pytest.approx([(6 / 8 + 4 / 6) / 2, 4 / 6, 2 / 3])
    assert np.isnan(found[3])


def test_balanced_f1_by_hand():
    counts = _counts([5, 2, 3], [1, 1, 0], [2, 0, 0], [1, 0, 0])
    right, wrong = true_rates(counts)
    assert right == pytest.approx([5 / 6, 1, 1])
    assert wrong[:2] == pytest.approx([2 / 3, 0])
    assert balanced_f1(counts)[:2] == pytest.approx([20 / 27, 0.0])
    assert np.isnan(balanced_f1(counts)[2])  # no wrong step


def test_counts_by_hand():
    counts = counts_at([[0.9, 0.2, 0.4], []], [[True, False, True], [True, False]], np.array([0.3, 0.5]))
    assert counts.tp.tolist() == [[2, 1], [0, 0]]
    assert counts.fp.tolist() == [[0, 0], [1, 1]]  # a solution without scores is judged wrongly
    assert counts.tn.tolist() == [[1, 1], [0, 0]]
    assert counts.fn.tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("metric", [prm_score, balanced_f1])
def test_thresholds_are_fitted_on_the_other_folds(metric):
    rng = np.random.default_rng(0)
    labels = [(rng.random(4) < 0.7).tolist() for _ in range(30)]
    values = [(rng.random(4) + 0.3 * np.array(right)).tolist() for right in labels]
    grid = np.linspace(0, 1.3, 20)
    counts = counts_at(values, labels, grid)
    folds, weights = np.arange(30) % 3, np.stack([np.ones(30), rng.integers(0, 3, 30)]).astype(float)
    chosen = cross_fitted(counts, folds, weights, metric)
    for row in range(2):
        for fold in range(3):
            others = folds != fold
            best = [
                metric(Counts(*(weights[row, others] @ side[others, place, None] for side in vars(counts).values())))[0]
                for place in range(20)
            ]
            assert set(chosen[row, ~others]) == {int(np.nan_to_num(best, nan=-1.0).argmax())}
    assert taken(counts, chosen).tp[1, 4] == counts.tp[4, chosen[1, 4]]
