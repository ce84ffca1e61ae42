"""Beam search: the best prefixes continue, in the slots of the others; more right steps than without search."""

from implicit_prm.config import BeamConfig
from implicit_prm.search.beam import beam
from implicit_prm.search.protocols import Frontier
from tests.search import toy
from tests.search.test_loop import run


def parents(values, open_=None, branch=2):
    return beam(Frontier(values, [0.0] * len(values), open_ or [True] * len(values)), BeamConfig(branch), None)


def test_the_best_half_is_continued_twice():
    assert parents([1.0, 4.0, 2.0, 3.0]) == [1, 3, 1, 3]
    assert parents([1.0, 4.0, 2.0, 3.0], branch=4) == [1, 1, 1, 1]


def test_finished_prefixes_keep_their_slots():
    assert parents([1.0, 9.0, 2.0, 3.0], [True, False, True, True]) == [3, 1, 2, 3]
    assert parents([1.0, 9.0], [False, False]) == [0, 1]


def test_with_the_exact_checker_a_search_never_loses_to_its_first_slot():
    """If slot 0 alone samples a right response, so does the search; and it is right as often as theory says."""
    best = [max(map(_right, run("beam", toy.exact, seed, options=BeamConfig(4))[0])) for seed in range(400)]
    alone = [_right(run(None, toy.exact, seed)[0][0]) for seed in range(400)]
    assert all(search >= first for search, first in zip(best, alone, strict=True))
    expected = 1.0  # every round continues a right prefix four times, if there is one
    for prefix in ("", "a\n", "a\na\n"):
        expected *= 1 - (1 - toy.reference(prefix)) ** 4
    assert abs(sum(best) / 400 - expected) <= 5 * (expected * (1 - expected) / 400) ** 0.5
    assert sum(best) > 3 * sum(alone)


def _right(response):
    return response == "a\n" * toy.STEPS
