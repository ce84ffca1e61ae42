"""With a guide that says nothing, every algorithm samples from the generator."""

import numpy as np
import pytest

from implicit_prm.config import BeamConfig, DVTSConfig, ParticlesConfig, RebaseConfig
from implicit_prm.rewards.implicit_reward import aggregate
from implicit_prm.search.loop import search
from implicit_prm.search.protocols import Prefix
from implicit_prm.search.searcher import ALGORITHMS
from implicit_prm.types import StepScores
from tests.search import toy

OPTIONS = {"beam": BeamConfig(2), "dvts": DVTSConfig(2), "particles": ParticlesConfig(), "rebase": RebaseConfig()}


def run(name, steps, seed, n=4, how="min", options=None):
    """The responses of an algorithm on the toy, and the generation; name None for plain sampling."""
    generation, rng = toy.ToyGeneration(n, seed), np.random.default_rng((seed, 1))

    def select(frontier):
        return list(range(n)) if name is None else ALGORITHMS[name](frontier, options or OPTIONS[name], rng)

    prefixes, scores = search(generation, toy.ToyGuide(steps), lambda one: aggregate(one, how), select, n)
    assert [one.response for one in scores] == [one.text for one in prefixes]
    return [one.text for one in prefixes], generation


@pytest.mark.parametrize("name", ["particles", "rebase"])
def test_equal_values_change_nothing(name):
    for seed in range(20):
        assert run(name, toy.constant, seed)[0] == run(None, toy.constant, seed)[0]


@pytest.mark.parametrize("name", ["beam", "dvts"])
def test_with_equal_values_each_response_follows_the_generator(name):
    """The last slot, which continues prefixes of other slots; 600 searches, within five standard errors."""
    found = [run(name, toy.constant, seed)[0][-1] for seed in range(600)]
    for response in toy.RESPONSES:
        expected = toy.probability(response, toy.reference)
        error = (expected * (1 - expected) / 600) ** 0.5
        assert abs(found.count(response) / 600 - expected) <= 5 * error


@pytest.mark.parametrize("name", [None, *ALGORITHMS])
def test_tokens_are_those_of_all_rounds(name):
    assert run(name, toy.exact, 0)[1].tokens == 4 * toy.STEPS


def test_a_prefix_without_steps_is_below_all_others():
    class Guide(toy.ToyGuide):
        def score(self, prefixes, parents):
            return [StepScores(one.text, [], []) for one in prefixes]

    seen = []

    def select(frontier):
        seen.append(frontier)
        return [0, 0]

    search(toy.ToyGeneration(2, 0), Guide(None), lambda one: aggregate(one, "min"), select, 2)
    assert max(seen[0].values) < -1e6
    assert seen[1].before == seen[0].values


def test_a_finished_response_keeps_its_slot_and_its_score():
    class Generation(toy.ToyGeneration):
        def _longer(self, prefix, slot):
            longer = super()._longer(prefix, slot)
            return Prefix(longer.text, finished=longer.finished or slot == 0)

    prefixes, _ = search(
        Generation(4, 0),
        toy.ToyGuide(toy.exact),
        lambda one: aggregate(one, "min"),
        lambda frontier: ALGORITHMS["beam"](frontier, BeamConfig(2), None),
        4,
    )
    assert [one.text.count("\n") for one in prefixes] == [1, 3, 3, 3]
