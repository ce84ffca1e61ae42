"""REBASE: continuations in proportion to exp(value / temperature), as many as there are slots."""

import math

from implicit_prm.config import RebaseConfig
from implicit_prm.search.protocols import Frontier
from implicit_prm.search.rebase import rebase


def parents(values, temperature=1.0, open_=None):
    frontier = Frontier(values, [0.0] * len(values), open_ or [True] * len(values))
    return rebase(frontier, RebaseConfig(temperature), None)


def test_slots_are_shared_out_by_a_softmax():
    # exp(value) is 1, 6, 2 and 3 twelfths: of four slots 1/3, 2, 2/3 and 1.
    values = [math.log(part / 12) for part in (1, 6, 2, 3)]
    assert parents(values) == [1, 1, 2, 3]
    assert parents(values, temperature=0.01) == [1, 1, 1, 1]
    assert parents(values, temperature=100.0) == [0, 1, 2, 3]


def test_finished_prefixes_keep_their_slots():
    assert parents([0.0, 9.0, 5.0, -5.0], open_=[True, False, True, True]) == [2, 1, 2, 2]
    assert parents([0.0], open_=[False]) == [0]


def test_values_far_apart_do_not_overflow():
    assert parents([-1e9, 1e3, 0.0]) == [1, 1, 1]
