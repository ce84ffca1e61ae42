"""Which tokens carry the reward: its share by class of token and by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from implicit_prm.evaluation.best_of_n.within_problem import problem_aurocs, problem_means
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.statistics import clustered_ratios, finite
from implicit_prm.rewards.attribution import TENTHS, TOKEN_CLASSES
from implicit_prm.types import StepScores


def token_rewards(
    candidates: Sequence[Candidates], scores: Sequence[Sequence[StepScores]], resamples: int, seed: int
) -> dict[str, Any]:
    """Shares of the tokens and of the absolute reward, by class of token and by tenth of the response.

    Intervals are 95 % percentile bootstrap over problems.

    Args:
        candidates: of every problem.
        scores: of every problem, one per response.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.

    Returns:
        `classes`: name -> `tokens` and `magnitude`, the class's shares of the tokens and of the absolute reward;
        `mean`, its reward per token, in beta x nats; `auroc`, the within-problem AUROC of the sum of its rewards alone.
        `tenths`: the two shares of each tenth. `responses`: how many have token rewards. Empty if none has.
    """
    if not any(one.token_sums for some in scores for one in some):
        return {}
    tokens, rewards, magnitudes = (_sums(scores, f"class_{name}") for name in ("tokens", "rewards", "magnitudes"))
    totals = [np.repeat(some.sum(axis=1, keepdims=True), len(TOKEN_CLASSES), axis=1) for some in (tokens, magnitudes)]
    above, below = np.hstack([tokens, magnitudes, rewards]), np.hstack([*totals, tokens])
    ratios = iter(clustered_ratios(above, below, resamples, seed))
    shares = {key: [finite(next(ratios)) for _ in TOKEN_CLASSES] for key in ("tokens", "magnitude", "mean")}
    alone = {
        name: problem_aurocs(candidates, [_of_class(number, some) for some in scores])
        for number, name in enumerate(TOKEN_CLASSES)
    }
    aurocs = problem_means(alone, resamples, seed)
    return {
        "classes": {
            name: {**{key: values[number] for key, values in shares.items()}, "auroc": aurocs[name]}
            for number, name in enumerate(TOKEN_CLASSES)
        },
        "tenths": {
            key: _share(_sums(scores, f"tenth_{name}").sum(axis=0))
            for key, name in (("tokens", "tokens"), ("magnitude", "magnitudes"))
        },
        "responses": sum(one.token_sums is not None for some in scores for one in some),
    }


def _sums(scores: Sequence[Sequence[StepScores]], name: str) -> NDArray[np.float64]:
    """[P, C or 10] the sums of that name of all responses to each problem."""
    nothing = [0.0] * (len(TOKEN_CLASSES) if name.startswith("class") else TENTHS)
    by_problem = [[getattr(one.token_sums, name) for one in some if one.token_sums] for some in scores]
    return np.array([np.sum(rows or [nothing], axis=0) for rows in by_problem], dtype=np.float64)


def _of_class(number: int, some: Sequence[StepScores]) -> NDArray[np.float64]:
    """[K] the sum of the rewards of a class of tokens; -inf for a response without token rewards."""
    return np.array([one.token_sums.class_rewards[number] if one.token_sums else -np.inf for one in some])


def _share(values: NDArray[np.float64]) -> list[float]:
    total = values.sum()
    return (values / total if total else values).tolist()
