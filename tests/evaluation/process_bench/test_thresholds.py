"""Thresholds: by hand, against exhaustive search, and independent of the rows they are used on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from implicit_prm.evaluation.process_bench import thresholds as th

# Solution 0 is correct; 1 and 2 have their first wrong step at 1 and 0; 3 is correct.
VALUES = [[0.9, 0.6], [0.8, 0.2, 0.1], [0.3, 0.7], [0.5]]
LABELS = [-1, 1, 0, -1]
ONCE = np.ones((1, 4))


def _f1(values, labels, threshold):
    right = [th.predict(steps, threshold) == label for steps, label in zip(values, labels, strict=True)]
    wrong = [ok for ok, label in zip(right, labels, strict=True) if label != -1]
    good = [ok for ok, label in zip(right, labels, strict=True) if label == -1]
    a, b = sum(wrong) / len(wrong), sum(good) / len(good)
    return 2 * a * b / (a + b) if a + b else 0.0


def test_the_first_step_below_the_threshold_is_predicted():
    assert th.predict([0.5, 0.1, 0.2], 0.3) == 1
    assert th.predict([0.5, 0.3], 0.3) == -1  # not below
    assert th.predict([], 0.3) == -1


def test_windows_and_the_best_threshold_by_hand():
    some = th.windows(VALUES, LABELS)
    assert some.low.tolist() == [-np.inf, 0.2, 0.3, -np.inf]
    assert some.high.tolist() == [0.6, 0.8, np.inf, 0.5]
    # All four are right in (0.3, 0.5]; the middle of that is chosen.
    assert th.best_thresholds(some, ONCE).tolist() == [pytest.approx(0.4)]
    # Twice solution 1 and none of 2 and 3: 0 and 1 are right in (0.2, 0.6].
    assert th.best_thresholds(some, np.array([[1.0, 2, 0, 0]])).tolist() == [pytest.approx(0.4)]
    assert th.best_thresholds(some, np.array([[1.0, 0, 1, 0]])).tolist() == [pytest.approx(0.45)]


def test_of_equal_maxima_the_lowest_interval_is_taken():
    # F1 is 2/3 in (1, 2] and in (3, 4], where one of the two erroneous solutions is found, and 0 elsewhere.
    some = th.windows([[2.0, 1.0], [4.0, 3.0], [9.0]], [1, 1, -1])
    assert th.best_thresholds(some, np.ones((1, 3))).tolist() == [1.5]


def test_adjacent_intervals_of_equal_f1_are_merged():
    # Right in (1, 2] and (2, 3]: one erroneous solution each, so one stretch from 1 to 3.
    some = th.windows([[2.0, 1.0], [3.0, 2.0], [9.0]], [1, 1, -1])
    assert th.best_thresholds(some, np.ones((1, 3))).tolist() == [2.0]


def test_uninformative_scores_predict_no_error():
    some = th.windows([[0.0, 0.0], [0.0]], [1, -1])
    (threshold,) = th.best_thresholds(some, np.ones((1, 2)))
    assert th.predict([0.0, 0.0], threshold) == -1


def test_without_one_of_the_kinds_there_is_no_threshold():
    some = th.windows(VALUES, LABELS)
    assert np.isnan(th.best_thresholds(some, np.array([[1.0, 0, 0, 1], [0, 1, 1, 0]]))).all()
    assert np.isnan(th.best_thresholds(th.windows([[], []], [0, -1]), np.ones((1, 2)))).all()


def test_an_unscored_solution_is_never_judged_correctly():
    some = th.windows([[], []], [0, -1])
    assert not some.hits(np.array(0.0)).any()
    assert not some.hits(np.array(np.inf)).any()


grid = st.sampled_from([-1.5, -0.5, 0.0, 0.25, 1.0, 2.0])
solutions = st.lists(st.lists(grid, min_size=1, max_size=4), min_size=2, max_size=8)


@settings(deadline=None, max_examples=60)
@given(solutions, st.data())
def test_no_threshold_is_better(values, data):
    """The sweep's F1 is the best that any threshold has, for any weights, and hits are what predict says."""
    labels = [data.draw(st.integers(-1, len(steps) - 1)) for steps in values]
    counts = [data.draw(st.integers(0, 2)) for _ in values]
    some = th.windows(values, labels)
    rows = [row for row, count in enumerate(counts) for _ in range(count)]
    (threshold,) = th.best_thresholds(some, np.array([counts], dtype=float))
    kinds = {labels[row] == -1 for row in rows}
    assert np.isnan(threshold) == (len(kinds) < 2)
    if len(kinds) == 2:
        chosen, marks = [values[row] for row in rows], [labels[row] for row in rows]
        tried = [_f1(chosen, marks, t) for t in (-2.0, *np.arange(-1.6, 2.2, 0.05), 3.0)]
        assert _f1(chosen, marks, threshold) == pytest.approx(max(tried))
    for t in (-2.0, -0.5, 0.1, 0.25, 9.0):
        expected = [th.predict(steps, t) == label for steps, label in zip(values, labels, strict=True)]
        assert some.hits(np.array(t)).tolist() == expected


def test_many_weightings_at_once_equal_one_by_one(monkeypatch):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=rng.integers(1, 6)).tolist() for _ in range(40)]
    some = th.windows(values, [int(rng.integers(-1, len(steps))) for steps in values])
    weights = rng.integers(0, 3, size=(50, 40)).astype(float)
    together = th.best_thresholds(some, weights)
    monkeypatch.setattr(th, "_CHUNK_CELLS", 500)
    np.testing.assert_array_equal(th.best_thresholds(some, weights), together)
    apart = [th.best_thresholds(some, row[None])[0] for row in weights]
    np.testing.assert_array_equal(apart, together)


def test_thresholds_are_independent_of_their_own_fold():
    """Whatever the labels and values of a fold are, the thresholds of its rows stay; those of the others may move."""
    rng = np.random.default_rng(1)
    values = [rng.normal(size=4).tolist() for _ in range(60)]
    labels = rng.integers(-1, 4, size=60).tolist()
    folds = np.arange(60) % 5
    weights = np.ones((1, 60))
    before = th.cross_fit(th.windows(values, labels), folds, weights)[0]
    for row in np.flatnonzero(folds == 2):
        labels[row], values[row] = -1 if labels[row] != -1 else 0, [99.0, -99.0]
    after = th.cross_fit(th.windows(values, labels), folds, weights)[0]
    assert (before[folds == 2] == after[folds == 2]).all()
    assert (before[folds != 2] != after[folds != 2]).any()


def test_in_sample_fitting_overestimates_noise_and_cross_fitting_does_not():
    """Noise is worth no more than a blind guess; the official script, fitting on what it reports, says it is."""
    rng = np.random.default_rng(0)
    once, found = np.ones((1, 60)), []
    for _ in range(40):
        values = rng.random((60, 4)).tolist()
        labels = np.where(rng.random(60) < 0.5, -1, rng.integers(0, 4, 60))
        some, folds = th.windows(values, labels.tolist()), rng.permutation(60) % 10
        ways = [th.best_thresholds(some, once), th.cross_fit(some, folds, once)[0]]
        found.append([th.f1(*th.accuracies(some.hits(way), some.erroneous, once))[0] for way in ways])
    in_sample, crossed = np.mean(found, axis=0)
    blind = 2 * 0.25 / (1 + 0.5) ** 2  # of 4 steps, by the formula of the best blind guess
    assert in_sample > blind + 0.03
    assert crossed < blind + 0.01


def test_accuracies_under_weights_by_hand():
    hits = np.array([1.0, 0.0, 1.0, 0.5])
    erroneous = np.array([True, True, False, False])
    wrong, right = th.accuracies(hits, erroneous, np.array([[1.0, 1, 1, 1], [3, 1, 0, 2], [0, 0, 1, 1]]))
    assert wrong.tolist()[:2] == [0.5, 0.75]
    assert np.isnan(wrong[2])
    assert right.tolist() == [0.75, 0.5, 0.75]
    f1 = th.f1(wrong, right)
    assert f1[:2].tolist() == [pytest.approx(0.6), pytest.approx(0.6)]
    assert np.isnan(f1[2])
    assert th.f1(np.zeros(1), np.zeros(1)).tolist() == [0.0]
