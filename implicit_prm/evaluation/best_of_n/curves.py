"""Accuracy against N of the scorer and of what it has to beat, all on the same candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from implicit_prm.config import BestOfNConfig
from implicit_prm.evaluation import selection
from implicit_prm.evaluation.scorer import kind_of
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.statistics import bootstrap_means
from implicit_prm.rewards.implicit_reward import aggregate, aggregate_kind, sigmoid
from implicit_prm.types import StepScores

MAJORITY, LIKELIHOOD, ORACLE = "majority vote", "log-likelihood of reference", "oracle (pass@N)"
OUTCOME = "PRM, sum (as an ORM)"
WEIGHTED, RANDOM = "weighted vote", "random pick"
ROWS = (MAJORITY, LIKELIHOOD, ORACLE, OUTCOME, WEIGHTED, RANDOM)
_NAMES = {"step": "steps", "step_mean": "step means", "prefix": "prefixes"}
Curves = dict[str, np.ndarray]  # name -> [problems, sizes] expected accuracy


def aggregated(scores: Sequence[Sequence[StepScores]], how: str, over: str) -> list[np.ndarray]:
    """[K] aggregate of every response, for every problem."""
    return [np.array([aggregate(one, how, over) for one in some]) for some in scores]


def rankings(config: BestOfNConfig, scores: Sequence[Sequence[StepScores]]) -> dict[str, list[np.ndarray]]:
    """The scores that responses can be ranked by: name -> [K] for every problem."""
    found = {f"PRM, {config.aggregate} of {_NAMES[config.over]}": aggregated(scores, config.aggregate, config.over)}
    if kind_of(scores) == "log_ratio" and (config.aggregate, config.over) != ("sum", "step"):
        found[OUTCOME] = aggregated(scores, "sum", "step")
    likelihood = [np.array([_or_lowest(one.reference_logprob) for one in some]) for some in scores]
    if any(np.isfinite(values).any() for values in likelihood):
        found[LIKELIHOOD] = likelihood
    return found


def best_of(
    candidates: Sequence[Candidates], values: Sequence[np.ndarray], sizes: Sequence[int], ties: str
) -> np.ndarray:
    """[problems, sizes] accuracy of the highest value among N; of equals, the first, or an even share of each."""
    return np.array(
        [
            [selection.best_of_n(v, c.correct, n) for n in sizes]
            for c, v in zip(candidates, ranked(candidates, values, ties), strict=True)
        ]
    )


def ranked(candidates: Sequence[Candidates], values: Sequence[np.ndarray], ties: str) -> list[np.ndarray]:
    """[K] scores that selection compares: -inf where a response must not be picked; without ties if `ties` is first."""
    allowed = [np.where(c.valid, v, -np.inf) for c, v in zip(candidates, values, strict=True)]
    return [-np.argsort(np.argsort(-v, kind="stable")) for v in allowed] if ties == "first" else allowed


def accuracy_curves(
    config: BestOfNConfig,
    candidates: Sequence[Candidates],
    scores: Sequence[Sequence[StepScores]],
    ranked_by: Mapping[str, Sequence[np.ndarray]],
    sizes: list[int],
) -> Curves:
    """Every curve of the report, all from the same candidates.

    Args:
        config: how to break ties and to weigh votes.
        candidates: of every problem.
        scores: of every problem, one per response.
        ranked_by: name -> of every problem, [K] scores; the scorer's own first.
        sizes: the N.
    """
    best = {name: best_of(candidates, values, sizes, config.ties) for name, values in ranked_by.items()}
    signed = signed_votes(config, scores)
    weights = [vote_weights(values, signed, config.vote_scale) for values in aggregated(scores, *config.votes_over)]
    ours = next(iter(best))
    return {
        ours: best.pop(ours),
        WEIGHTED: _vote(config, candidates, weights, sizes),
        MAJORITY: _vote(config, candidates, None, sizes),
        **best,
        RANDOM: np.array([[selection.mean_accuracy(c.correct)] * len(sizes) for c in candidates]),
        ORACLE: np.array([[selection.pass_at_k(c.correct, n) for n in sizes] for c in candidates]),
    }


def differences(curves: Curves, sizes: Sequence[int], config: BestOfNConfig, others: Iterable[str]) -> dict[str, Any]:
    """Paired differences to the baselines, and of the scorer's own row to those of other scorers."""
    pairs = [(name, base) for base in (MAJORITY, LIKELIHOOD) for name in curves if name not in (base, LIKELIHOOD)]
    pairs += [(name, RANDOM) for name in curves if name not in (MAJORITY, LIKELIHOOD, RANDOM)]
    pairs = [pair for pair in pairs if ORACLE not in pair]
    pairs += [(next(iter(curves)), other) for other in others]
    return {
        f"{name} - {base}": intervals(curves[name], sizes, config, curves[base])
        for name, base in pairs
        if base in curves
    }


def signed_votes(config: BestOfNConfig, scores: Sequence[Sequence[StepScores]]) -> bool:
    """Whether votes are weighted by log-ratios, which a sigmoid makes weights; a product is one of probabilities."""
    return aggregate_kind(kind_of(scores), config.votes_over[0]) == "log_ratio"


def vote_weights(values: np.ndarray, signed: bool, scale: float) -> np.ndarray:
    """[K] weights of the responses' votes: sigmoid(scale * value) of log-ratios; a probability is a weight as it is."""
    return np.array([sigmoid(scale * value) if signed else max(value, 0.0) for value in values.tolist()])


def weight_rule(config: BestOfNConfig, scores: Sequence[Sequence[StepScores]]) -> str:
    """The weight of a response's vote, in words."""
    value = "{} over {}".format(*config.votes_over)
    scale = "" if config.vote_scale == 1 else f"{config.vote_scale:g} * "
    return f"sigmoid({scale}{value})" if signed_votes(config, scores) else value


def intervals(
    values: np.ndarray, sizes: Sequence[int], config: BestOfNConfig, base: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """Mean over problems at each size, or mean of the difference to `base` on the same problems.

    Args:
        values: [problems, sizes].
        sizes: the N of each column.
        config: number of resamples and seed.
        base: [problems, sizes].
    """
    differences = values if base is None else values - base
    found = bootstrap_means(differences, config.bootstrap_resamples, config.seed)
    return {str(n): asdict(one) for n, one in zip(sizes, found, strict=True)}


def _vote(
    config: BestOfNConfig, candidates: Sequence[Candidates], weights: Sequence[np.ndarray] | None, sizes: list[int]
) -> np.ndarray:
    rng = np.random.default_rng(config.seed)
    rows = []
    for place, c in enumerate(candidates):
        weight = None if weights is None else np.where(c.valid, weights[place], 0.0)
        rows.append(selection.votes(weight, c.correct, c.classes, sizes, config.vote_draws, rng))
    return np.array(rows)


def _or_lowest(value: float | None) -> float:
    return -math.inf if value is None else value
