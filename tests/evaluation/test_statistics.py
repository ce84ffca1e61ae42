import math

import numpy as np
import pytest

from implicit_prm.evaluation.statistics import (
    Interval,
    auroc,
    bootstrap_mean,
    bootstrap_means,
    clustered_auroc,
    clustered_ratio,
)
from implicit_prm.types import ImplicitPRMError


def test_bootstrap_interval_has_the_width_of_the_normal_one():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)


def test_bootstrap_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(1)
    intervals = [bootstrap_mean(rng.random(100) < 0.3, resamples=500, seed=i) for i in range(400)]
    covered = np.mean([interval.low <= 0.3 <= interval.high for interval in intervals])
    assert 0.91 <= covered <= 0.98  # 95 % less what a percentile interval lacks at 100, within three standard errors


def test_bootstrap_of_equal_values_is_a_point_and_repeats_with_its_seed():
    assert bootstrap_mean([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5)
    values = [0.0, 1.0, 0.0, 0.3, 1.0, 0.7, 0.2]
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, resamples=99, seed=1) != bootstrap_mean(values, resamples=99, seed=2)


def test_many_problems_are_resampled_in_chunks():
    values = np.random.default_rng(0).random(5000)
    interval = bootstrap_mean(values, resamples=1000)  # five million draws do not fit one chunk
    assert interval.low < values.mean() < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(5000), rel=0.1)


def test_columns_have_the_intervals_that_they_have_alone():
    values = np.random.default_rng(0).random((300, 3))
    together = bootstrap_means(values, resamples=500, seed=2)
    for column, interval in zip(values.T, together, strict=True):
        alone = bootstrap_mean(column, resamples=500, seed=2)
        assert (interval.value, interval.low, interval.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_a_difference_of_the_same_problems_has_a_narrower_interval():
    difficulty = np.random.default_rng(0).random(200)
    a, b = difficulty + 0.01, difficulty
    assert bootstrap_mean(a - b).low == pytest.approx(0.01)
    assert bootstrap_mean(a).low < bootstrap_mean(b).value


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        ([2.0, 3.0], [0.0, 1.0], 1.0),
        ([0.0], [1.0], 0.0),
        ([1.0, 1.0], [1.0], 0.5),
        ([3.0, 1.0], [2.0, 1.0], 0.625),  # 3 beats both; 1 loses to 2 and ties with 1: (1 + 1 + 0 + 1/2) / 4
        ([math.inf, 0.0], [-math.inf], 1.0),
        ([-math.inf], [-math.inf], 0.5),
    ],
)
def test_auroc_worked_by_hand(positive, negative, expected):
    assert auroc(positive, negative) == pytest.approx(expected)


def test_auroc_equals_the_count_over_all_pairs():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 30, 200) + 3, rng.integers(0, 30, 300)
    above = positive[:, None] > negative[None]
    tied = positive[:, None] == negative[None]
    assert auroc(positive, negative) == pytest.approx((above + tied / 2).mean())


def test_auroc_of_an_empty_side_is_nan():
    assert math.isnan(auroc([], [1.0]))
    assert math.isnan(auroc([1.0], []))
    assert math.isnan(auroc([], []))


def test_clustered_auroc_equals_a_plain_bootstrap_of_problems():
    rng = np.random.default_rng(0)
    positives = [np.round(rng.normal(0.7, 1, rng.integers(0, 5)), 1) for _ in range(30)]
    negatives = [np.round(rng.normal(0.0, 1, rng.integers(0, 5)), 1) for _ in range(30)]
    interval = clustered_auroc(positives, negatives, resamples=400, seed=5)

    drawn = np.random.default_rng(5).integers(30, size=(400, 30))
    areas = [
        auroc(np.concatenate([positives[i] for i in row]), np.concatenate([negatives[i] for i in row])) for row in drawn
    ]
    assert interval.value == pytest.approx(auroc(np.concatenate(positives), np.concatenate(negatives)))
    assert [interval.low, interval.high] == pytest.approx(np.percentile(areas, [2.5, 97.5]))


def test_correlated_clusters_widen_the_interval():
    rng = np.random.default_rng(0)
    positives, negatives = rng.normal(0.5, 1, 40), rng.normal(0, 1, 40)
    alone = clustered_auroc([[p] for p in positives], [[n] for n in negatives])
    repeated = clustered_auroc([[p] * 9 for p in positives], [[n] * 9 for n in negatives])
    assert repeated.value == pytest.approx(alone.value)
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low)  # not a third of it


def test_clustered_auroc_is_chunked_and_leaves_out_samples_without_a_side():
    few = clustered_auroc([[1.0], []], [[], [0.0]], resamples=200)  # half of the samples have one side only
    assert few == Interval(1.0, 1.0, 1.0)
    none = clustered_auroc([[1.0], [2.0]], [[], []])
    assert all(math.isnan(value) for value in (none.value, none.low, none.high))
    rng = np.random.default_rng(0)
    many = clustered_auroc(list(rng.normal(1, 1, (300, 30))), list(rng.normal(0, 1, (300, 30))), resamples=300)
    assert many.low < many.value < many.high  # 300 samples of 18,000 scores do not fit one chunk


def test_clustered_ratio_weights_problems_by_their_denominators():
    interval = clustered_ratio([1, 0, 9], [1, 9, 10])
    assert interval.value == pytest.approx(0.5)
    assert interval.low == 0.0  # all three draws the second
    assert interval.high == pytest.approx(1.0)  # all three draws the first: 1 in 27


def test_clustered_ratio_without_denominators_is_nan():
    assert math.isnan(clustered_ratio([0, 0], [0, 0]).value)
    assert clustered_ratio([1, 0], [2, 0], resamples=100).low == 0.5  # samples of the second problem are left out


@pytest.mark.parametrize(
    "call",
    [
        lambda: bootstrap_mean([]),
        lambda: bootstrap_mean([1.0, math.nan]),
        lambda: clustered_ratio([1.0], [-1.0]),
        lambda: clustered_ratio([1.0], [1.0, 1.0]),
        lambda: auroc([math.nan], [1.0]),
        lambda: clustered_auroc([[1.0]], []),
        lambda: clustered_auroc([], []),
    ],
)
def test_invalid_input_is_refused(call):
    with pytest.raises(ImplicitPRMError):
        call()
