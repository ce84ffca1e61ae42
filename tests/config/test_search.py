"""Combinations of options that `ipr-search` refuses before a model is loaded."""

import pytest

from implicit_prm.config import ParticlesConfig, SearchConfig, from_mapping
from tests.config.examples import ROLLOUT, SERVER, assert_refused, changed

SEARCH = ROLLOUT | {"algorithm": {"name": "beam"}, "guide": {"kind": "checkpoint", "checkpoint": "folder"}}


def test_the_smallest_options_are_valid():
    config = from_mapping(SearchConfig, SEARCH)
    assert config.by_step
    assert config.guide.opening.reference_cache is None
    found = from_mapping(SearchConfig, SEARCH | {"algorithm": {"name": "particles"}}).algorithm
    assert found == ParticlesConfig()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampling__batch_size": 4}, ["sampling.batch_size"]),
        ({"sampling__n": 6}, ["sampling.n=6", "algorithm.branch=4"]),
        ({"algorithm__branch": 1}, ["algorithm.branch"]),
        ({"algorithm__name": "mcts"}, ["algorithm.name=mcts", "beam", "particles"]),
        ({"algorithm": {"name": "rebase", "temperature": 0.0}}, ["algorithm.temperature"]),
        ({"algorithm": {"name": "particles", "temperature": -1.0}}, ["algorithm.temperature"]),
        ({"algorithm": {"name": "tokens", "weight": 0.0}}, ["algorithm.weight"]),
        ({"algorithm": {"name": "tokens"}, "guide": {"kind": "exact"}}, ["algorithm=tokens", "guide"]),
        ({"algorithm": {"name": "tokens"}, "policy": SERVER}, ["algorithm=tokens", "policy"]),
        ({"algorithm": {"name": "tokens"}, "chunk_tokens": 8}, ["chunk_tokens", "tokens"]),
        ({"algorithm": {"name": "best_of_n"}, "chunk_tokens": 8}, ["chunk_tokens", "best_of_n"]),
        ({"chunk_tokens": 0}, ["chunk_tokens"]),
        ({"tokenizer": "folder"}, ["tokenizer"]),
        ({"guide": {"kind": "exact"}, "problems__name": "math"}, ["guide=exact", "math"]),
        ({"guide": {"kind": "exact"}, "over": "prefix"}, ["over=prefix"]),
        ({"guide": {"kind": "exact"}, "steps": "blank_line"}, ["steps=blank_line"]),
        ({"guide": {"kind": "exact"}, "chunk_tokens": 8}, ["chunk_tokens=8", "exact"]),
        ({"guide__beta": 0.0}, ["guide.beta"]),
        ({"steps": "step_marker"}, ["steps=step_marker", "chunk_tokens"]),
        ({"steps": "given", "chunk_tokens": 16}, ["steps=given"]),
        ({"steps": "given", "algorithm": {"name": "best_of_n"}}, ["steps=given"]),
        ({"aggregate": "best"}, ["aggregate=best", "min"]),
        ({"sampling__seed": None}, ["sampling.seed"]),
    ],
)
def test_refused(changes, words):
    assert_refused(SearchConfig, changed(SEARCH, **changes), *words)


def test_any_rule_will_do_where_the_ends_of_steps_are_not_looked_for():
    for changes in ({"chunk_tokens": 16}, {"algorithm": {"name": "best_of_n"}}):
        from_mapping(SearchConfig, SEARCH | {"steps": "step_marker"} | changes)
