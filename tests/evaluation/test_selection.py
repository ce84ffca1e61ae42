import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from implicit_prm.evaluation.selection import best_of_n, mean_accuracy, pass_at_k, sizes, votes
from implicit_prm.types import ImplicitPRMError

SCORES = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 2.0])


def over_all_subsets(total, n, value):
    subsets = list(itertools.combinations(range(total), n))
    return sum(value(list(subset)) for subset in subsets) / len(subsets)


def best_by_enumeration(scores, correct, n):
    def value(subset):
        top = max(scores[i] for i in subset)
        return np.mean([correct[i] for i in subset if scores[i] == top])

    return over_all_subsets(len(scores), n, value)


def votes_by_enumeration(weights, correct, classes, n):
    def value(subset):
        tally = {}
        for i in subset:
            if classes[i] >= 0:
                tally[classes[i]] = tally.get(classes[i], 0) + weights[i]
        most = max(tally.values(), default=0)
        if most == 0:
            return 0.0
        members = [[i for i in range(len(classes)) if classes[i] == c] for c, w in tally.items() if w == most]
        return np.mean([np.mean([correct[i] for i in group]) for group in members])

    return over_all_subsets(len(correct), n, value)


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9]), (32, [1, 2, 4, 8, 16, 32])],
)
def test_sizes_are_powers_of_two_and_the_whole(candidates, expected):
    assert sizes(candidates) == expected


def test_best_of_n_worked_by_hand():
    # Of the subsets of two, {0, 1} and {0, 2} are won by the right candidate 0 and {1, 2} by the wrong candidate 1.
    assert best_of_n([3.0, 2.0, 1.0], [True, False, False], 2) == pytest.approx(2 / 3)


def test_tied_scores_share_evenly_whatever_their_order():
    assert best_of_n([1.0, 1.0, 0.0], [True, False, False], 3) == pytest.approx(1 / 2)
    assert best_of_n([1.0, 0.0, 1.0], [False, False, True], 3) == pytest.approx(1 / 2)


def test_minus_infinity_wins_only_among_its_own():
    scores, correct = [-math.inf, -math.inf, -1e300], [True, True, False]
    assert best_of_n(scores, correct, 3) == 0.0
    assert best_of_n(scores, correct, 2) == pytest.approx(1 / 3)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=7), st.data())
def test_best_of_n_equals_enumeration(candidates, data):
    scores, correct = [c[0] for c in candidates], [c[1] for c in candidates]
    n = data.draw(st.integers(1, len(candidates)))
    assert best_of_n(scores, correct, n) == pytest.approx(best_by_enumeration(scores, correct, n), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 37, 512, 1023, 1024])
def test_best_of_n_equals_the_integer_formula_for_many_candidates(n):
    rng = np.random.default_rng(0)
    scores, correct = rng.integers(0, 300, 1024), rng.random(1024) < 0.3
    expected = 0.0
    for score in np.unique(scores):
        below, tie = int((scores < score).sum()), int((scores == score).sum())
        wins = (math.comb(below + tie, n) - math.comb(below, n)) / math.comb(1024, n)
        expected += wins * correct[scores == score].mean()
    assert best_of_n(scores, correct, n) == pytest.approx(expected, rel=1e-10)


def test_the_ends_of_best_of_n_are_the_mean_and_the_argmax():
    scores, correct = [0.1, 0.9, 0.5, 0.7], [True, False, True, True]
    assert best_of_n(scores, correct, 1) == pytest.approx(mean_accuracy(correct)) == pytest.approx(0.75)
    assert best_of_n(scores, correct, 4) == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_equals_enumeration_and_a_perfect_scorer(correct, data):
    k = data.draw(st.integers(1, len(correct)))
    expected = over_all_subsets(len(correct), k, lambda subset: any(correct[i] for i in subset))
    assert pass_at_k(correct, k) == pytest.approx(expected)
    assert best_of_n(np.array(correct, dtype=float), correct, k) == pytest.approx(expected)


def test_pass_at_k_of_a_thousand_candidates():
    assert pass_at_k([True] + [False] * 1023, 256) == pytest.approx(0.25)


POOL_CORRECT = [True, False, False, True, True, False, False]
POOL_CLASSES = [0, 1, 1, 0, 2, -1, 3]


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0, 1.0, 1.5, 9.0, 0.25]])
def test_votes_equal_enumeration_within_the_error_of_sampling(weights):
    draws = 20_000
    got = votes(weights, POOL_CORRECT, POOL_CLASSES, [1, 2, 3, 4, 5, 6, 7], draws, np.random.default_rng(1))
    for n, value in enumerate(got, start=1):
        expected = votes_by_enumeration(weights or [1] * 7, POOL_CORRECT, POOL_CLASSES, n)
        error = 1e-12 if n in (1, 7) else 5 * 0.5 / math.sqrt(draws)
        assert value == pytest.approx(expected, abs=error), n


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.booleans(), st.integers(-1, 3)), min_size=1, max_size=9
    )
)
def test_votes_of_one_and_of_all_are_exact(candidates):
    weights, correct, classes = (list(column) for column in zip(*candidates, strict=True))
    total = len(candidates)
    got = votes(weights, correct, classes, [total, 1], 1, np.random.default_rng(0))
    expected = [votes_by_enumeration(weights, correct, classes, n) for n in (total, 1)]
    assert got == pytest.approx(expected, abs=1e-12)


def test_weights_overturn_a_majority():
    correct, classes = [False, False, True], [0, 0, 1]
    rng = np.random.default_rng(0)
    assert votes(None, correct, classes, [3], 1, rng) == 0.0
    assert votes([1.0, 1.0, 2.5], correct, classes, [3], 1, rng) == 1.0


def test_sums_that_differ_only_in_rounding_are_tied():
    assert 0.1 + 0.2 > 0.3
    assert votes([0.1, 0.2, 0.3], [True, True, False], [0, 0, 1], [3], 1, np.random.default_rng(0)) == 0.5


def test_no_answer_does_not_vote_and_no_votes_are_wrong():
    rng = np.random.default_rng(0)
    assert votes(None, [False, False, True], [-1, -1, 0], [3], 1, rng) == 1.0
    assert votes(None, [True, True], [-1, -1], [1, 2], 1, rng).tolist() == [0.0, 0.0]
    assert votes([0.0, 0.0], [True, True], [0, 0], [1, 2], 1, rng).tolist() == [0.0, 0.0]


def test_a_class_is_worth_the_mean_of_its_members():
    assert votes(None, [True, True, False, False], [0, 0, 0, 1], [4], 1, np.random.default_rng(0)) == pytest.approx(
        2 / 3
    )


def test_the_same_seed_gives_the_same_votes_and_another_seed_others():
    arguments = (None, POOL_CORRECT, POOL_CLASSES, [3, 2], 50)
    first = votes(*arguments, np.random.default_rng(3))
    assert first.tolist() == votes(*arguments, np.random.default_rng(3)).tolist()
    assert first.tolist() != votes(*arguments, np.random.default_rng(4)).tolist()


def test_votes_of_many_candidates_are_drawn_in_chunks():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 400, 1024)
    got = votes(None, classes == 0, classes, [512], 3000, rng)  # 3000 orders of 1024 do not fit one chunk
    assert 0 <= got[0] < 0.2


@pytest.mark.parametrize(
    "call",
    [
        lambda: best_of_n([1.0, math.nan], [True, False], 1),
        lambda: best_of_n([1.0, math.inf], [True, False], 1),
        lambda: best_of_n([1.0], [True, False], 1),
        lambda: best_of_n([1.0, 2.0], [True, False], 3),
        lambda: best_of_n([1.0, 2.0], [True, False], 0),
        lambda: best_of_n([], [], 1),
        lambda: mean_accuracy([0.5]),
        lambda: pass_at_k([True], 2),
        lambda: sizes(0),
        lambda: votes([1.0, -1.0], [True, False], [0, 1], [1], 1, np.random.default_rng(0)),
        lambda: votes([1.0, math.nan], [True, False], [0, 1], [1], 1, np.random.default_rng(0)),
        lambda: votes([1.0, math.inf], [True, False], [0, 1], [1], 1, np.random.default_rng(0)),
        lambda: votes(None, [True, False], [0, -2], [1], 1, np.random.default_rng(0)),
        lambda: votes(None, [True, False], [0.0, 1.0], [1], 1, np.random.default_rng(0)),
        lambda: votes(None, [True, False], [0, 1], [3], 1, np.random.default_rng(0)),
        lambda: votes(None, [True, False], [0, 1], [1], 0, np.random.default_rng(0)),
    ],
)
def test_invalid_input_is_refused(call):
    with pytest.raises(ImplicitPRMError):
        call()
