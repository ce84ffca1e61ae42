"""Particle filtering: unbiased for p_generator exp(value / temperature), which is pi_theta for the implicit reward."""

import math

import numpy as np
import pytest

from implicit_prm.config import ParticlesConfig
from implicit_prm.rewards.implicit_reward import aggregate
from implicit_prm.search.loop import search
from implicit_prm.search.particles import log_weights, particles, systematic
from tests.search import toy


def test_the_weights_of_all_responses_have_mean_one_under_the_reference():
    """E_ref[exp(q / beta)] = 1, by enumeration and for every number of steps."""
    for steps in (1, 2, 3):
        prefixes = {"".join(response.splitlines(keepends=True)[:steps]) for response in toy.RESPONSES}
        total = sum(
            toy.probability(prefix, toy.reference) * math.exp(sum(toy.implicit(prefix)) / toy.BETA)
            for prefix in prefixes
        )
        assert total == pytest.approx(1)


def _searched(seed, temperature, n=8):
    """The responses of a search, and the product of the mean weights of its rounds."""
    rng, products = np.random.default_rng((seed, 1)), []

    def select(frontier):
        products.append(np.exp(log_weights(frontier, temperature)).mean())
        return particles(frontier, ParticlesConfig(temperature), rng)

    generation, guide = toy.ToyGeneration(n, seed), toy.ToyGuide(toy.implicit)
    prefixes, _ = search(generation, guide, lambda one: aggregate(one, "sum"), select, n)
    return [one.text for one in prefixes], math.prod(products)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_shares_times_mean_weights_are_unbiased(power):
    """E[mean weights x share of y] = p_ref(y) (pi_theta / pi_ref)^power; 300 searches, within five standard errors."""
    searches = [_searched(seed, toy.BETA / power) for seed in range(300)]
    for response in toy.RESPONSES:
        of_policy, of_reference = toy.probability(response, toy.policy), toy.probability(response, toy.reference)
        found = np.array([product * texts.count(response) / len(texts) for texts, product in searches])
        expected = of_reference * (of_policy / of_reference) ** power
        assert abs(found.mean() - expected) <= 5 * found.std() / len(found) ** 0.5
    if power == 1:
        products = np.array([product for _, product in searches])
        assert abs(products.mean() - 1) <= 5 * products.std() / len(products) ** 0.5


def test_systematic_resampling_is_even():
    rng = np.random.default_rng(0)
    assert systematic(np.full(1000, 3.3), rng) == list(range(1000))
    weights = np.array([0.5, 0.3, 0.15, 0.05])
    counts = np.array([np.bincount(systematic(np.log(weights), rng), minlength=4) for _ in range(2000)])
    assert (counts >= np.floor(4 * weights)).all()
    assert (counts <= np.ceil(4 * weights)).all()
    assert np.allclose(counts.mean(0), 4 * weights, atol=0.06)


def test_weights_far_apart_do_not_overflow():
    assert systematic(np.array([-1e9, 0.0, 1e9]), np.random.default_rng(0)) == [2, 2, 2]
