"""Particle filtering: sequential Monte Carlo with the guide's values as log-potentials.

The responses are distributed as p_generator(y) exp(value(y) / temperature), up to a factor and to the error of n
particles. For the implicit reward with `aggregate=sum` and `temperature=beta` this is pi_theta / pi_ref x p_generator:
if the generator is the reference, the particles are samples of pi_theta itself. Puri et al. (arXiv 2502.01618) weight
by the value after each step rather than by its change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from implicit_prm.config import ParticlesConfig
from implicit_prm.search.protocols import Frontier


def particles(frontier: Frontier, config: ParticlesConfig, rng: np.random.Generator) -> list[int]:
    """Resample all prefixes, finished ones too, by exp(change of value / temperature)."""
    return systematic(log_weights(frontier, config.temperature), rng)


def log_weights(frontier: Frontier, temperature: float) -> NDArray[np.float64]:
    """[n] the log-weights of one round. Without selection, exp of their sum over rounds has mean 1 under the reference
    if the value is q and the temperature beta (a martingale, Proposition 3.1 of arXiv 2412.01981)."""
    return (np.asarray(frontier.values) - np.asarray(frontier.before)) / temperature


def systematic(log_weights: NDArray[np.float64], rng: np.random.Generator) -> list[int]:
    """Systematic resampling (Kitagawa 1996): slot i of n occurs floor(n w_i) or ceil(n w_i) times, n w_i on average.

    Equal weights leave every slot as it is.
    """
    weights = np.exp(log_weights - log_weights.max())
    ends = weights.cumsum() / weights.sum() * len(weights)
    # Rounding first: the ends of equal weights are whole numbers up to the last bits.
    marks = np.arange(len(weights)) + rng.random()
    return np.searchsorted(np.round(ends, 9), marks, side="right").clip(max=len(weights) - 1).tolist()
