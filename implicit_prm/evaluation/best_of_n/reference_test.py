"""Were the candidates sampled from the reference? If so, E_ref[exp(q / beta)] = 1 at the end of every step.

exp(q / beta) is the ratio of policy and reference of a prefix, a martingale of mean 1 under the reference, whatever the
policy. Proposition 3.1 of arXiv 2412.01981 reads q as a value over continuations by the reference, and says less about
responses from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from implicit_prm.evaluation.statistics import Interval, clustered_ratio, finite
from implicit_prm.types import StepScores

MOST_STEPS = 8


def reference_test(
    scores: Sequence[Sequence[StepScores]], beta: float, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """log of the mean of exp(q / beta) at the end of each step; 0 if the responses were sampled from the reference.

    The mean is one of heavy tails: with a policy far from the reference a few responses decide it, and it comes out too
    low. `effective_responses`, (sum w)² / sum w² for the weights w = exp(q / beta), says how many did. A mean clearly
    above 0 shows other candidates (another model, temperature or prompt); one below 0 does so only if most are
    effective. A response that ended before step s counts with its last value. Intervals are 95 % percentile bootstrap
    over problems.

    Args:
        scores: of every problem, one per response, with prefix values.
        beta: of the scorer.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.

    Returns:
        For each step that at least half of the responses have, up to the eighth, and for the `end` of the response:
        `step`, `log_mean` in nats, `effective_responses`, `responses`. Empty without prefix values.
    """
    prefixes = [[one.prefix_values for one in some if one.prefix_values] for some in scores]
    steps = [len(values) for some in prefixes for values in some]
    if not steps:
        return []
    common = min(MOST_STEPS, int(np.median(steps)))
    found = []
    for step in [*range(common), None]:
        name = "end" if step is None else str(step + 1)
        at = [np.array([_value(values, step) for values in some]) / beta for some in prefixes]
        weights = np.exp(np.concatenate(at) - max(some.max() for some in at if len(some)))
        found.append(
            {
                "step": name,
                "log_mean": finite(log_mean(at, resamples, seed)),
                "effective_responses": float(weights.sum() ** 2 / (weights**2).sum()),
                "responses": len(steps),
            }
        )
    return found


def log_mean(log_ratios: Sequence[NDArray[np.float64]], resamples: int, seed: int) -> Interval:
    """log of the mean of exp over all responses, with a bootstrap interval over problems.

    Args:
        log_ratios: of every problem, [K] in nats.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.
    """
    shift = max(some.max() for some in log_ratios if len(some))
    sums = [np.exp(some - shift).sum() for some in log_ratios]
    mean = clustered_ratio(sums, [len(some) for some in log_ratios], resamples, seed)
    with np.errstate(divide="ignore"):  # a resample without the largest values may underflow to 0
        return Interval(*(float(np.log(value) + shift) for value in (mean.value, mean.low, mean.high)))


def _value(values: Sequence[float], step: int | None) -> float:
    return values[-1] if step is None else values[min(step, len(values) - 1)]
