"""DVTS: trees of consecutive slots, which do not compete."""

from implicit_prm.config import DVTSConfig
from implicit_prm.search.dvts import dvts
from implicit_prm.search.protocols import Frontier


def parents(values, open_=None):
    return dvts(Frontier(values, [0.0] * len(values), open_ or [True] * len(values)), DVTSConfig(2), None)


def test_each_tree_continues_its_best_prefix():
    assert parents([5.0, 4.0, 1.0, 2.0]) == [0, 0, 3, 3]


def test_finished_prefixes_keep_their_slots():
    assert parents([5.0, 4.0, 1.0, 2.0], [False, True, False, False]) == [0, 1, 2, 3]
