"""Best-of-N among responses of about the same length, where a score that only follows length gains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from implicit_prm.evaluation import selection
from implicit_prm.evaluation.best_of_n.length import same_length
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.statistics import bootstrap_means


def length_matched(
    candidates: Sequence[Candidates],
    ranked: Sequence[NDArray[np.float64]],
    lengths: Sequence[NDArray[np.float64]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Accuracy of the best of those responses whose lengths differ by at most 10 % from that of a random response.

    Every response of a problem is drawn with equal probability, so there is no randomness. Intervals are 95 %
    percentile bootstrap over problems; differences are paired.

    Args:
        candidates: of every problem.
        ranked: of every problem, [K] the scores that selection compares, -inf for responses that must not be picked.
        lengths: of every problem, [K].
        resamples: number of bootstrap samples.
        seed: seed of the resampling.

    Returns:
        `responses`, the mean number of responses to pick from; accuracies: `picked`, `any_length` (the best of as many
        responses of any length) and `random` (a random one of the same responses); `difference`, picked minus
        any_length; `gain`, picked minus random.
    """
    found = np.array([_problem(*one) for one in zip(candidates, ranked, lengths, strict=True)])
    responses, picked, any_length, random = found.T
    columns = np.stack([picked, any_length, random, picked - any_length, picked - random], axis=1)
    names = ("picked", "any_length", "random", "difference", "gain")
    intervals = bootstrap_means(columns, resamples, seed)
    return {
        "responses": float(responses.mean()),
        **{name: asdict(one) for name, one in zip(names, intervals, strict=True)},
    }


def _problem(
    c: Candidates, ranked: NDArray[np.float64], length: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """Means over the K responses: number of responses of that length, and the three accuracies."""
    correct = c.correct.astype(np.float64)
    matched = same_length(length, length)
    sizes = matched.sum(axis=1)
    best = np.where(matched, ranked, -np.inf).max(axis=1, keepdims=True)
    winners = matched & (ranked == best)
    picked = winners @ correct / winners.sum(axis=1)
    by_size = {n: selection.best_of_n(ranked, correct, n) for n in set(sizes.tolist())}
    any_length = [by_size[n] for n in sizes.tolist()]
    random = matched @ correct / sizes
    return float(sizes.mean()), float(picked.mean()), float(np.mean(any_length)), float(random.mean())
