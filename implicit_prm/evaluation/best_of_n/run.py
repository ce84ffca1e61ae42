"""The reranking run: candidates in, accuracy against N out, for the scorer and for what it has to beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from implicit_prm.config import BestOfNConfig, from_mapping
from implicit_prm.data.groups import load_groups, take_responses
from implicit_prm.evaluation import selection
from implicit_prm.evaluation.best_of_n import page as page
from implicit_prm.evaluation.best_of_n import report
from implicit_prm.evaluation.best_of_n.lowest_step import lowest_step_positions
from implicit_prm.evaluation.best_of_n.reliability import reliability
from implicit_prm.evaluation.scorer import OpenScorer, open_scorer
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.statistics import bootstrap_mean, paired_difference
from implicit_prm.evaluation.step_errors import step_metrics
from implicit_prm.grading.extraction import extract_answer
from implicit_prm.grading.grader import Grader
from implicit_prm.rewards.implicit_reward import AGGREGATES, aggregate, sigmoid
from implicit_prm.rollouts.run import rollout
from implicit_prm.scoring.store import check_lengths
from implicit_prm.types import Group, ImplicitPRMError, StepScores
from implicit_prm.utils.distributed import is_first, spoken_once
from implicit_prm.utils.io import write_json
from implicit_prm.utils.progress import tracked

MAJORITY, LIKELIHOOD, ORACLE = "majority vote", "log-likelihood of reference", "oracle (pass@N)"
_NAMES = {"step": "steps", "step_mean": "step means", "prefix": "prefixes"}
Curves = dict[str, np.ndarray]  # name -> [problems, sizes] expected accuracy


def evaluate(config: BestOfNConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Score the candidates and write metrics.json, scores.parquet, accuracy.png and report.html to `config.folder`.

    Accuracies at N are expectations over all subsets of N candidates of a problem, in closed form for best-of-N and
    pass@N, over `vote_draws` seeded draws for the votes. Intervals are 95 % percentile bootstrap over problems.

    Returns:
        What metrics.json holds.

    Raises:
        ImplicitPRMError: anything wrong with options, candidates or checkpoint.
    """
    config = from_mapping(BestOfNConfig, asdict(config))  # a config made in Python is checked like one from YAML
    folder = Path(config.folder)
    main = is_first()
    groups, scorer, key = prepare(config, folder, spoken_once(say))
    with Grader() as grader:
        groups = [graded(group, grader) for group in tracked(groups, "grading", main)]
        candidates = [
            as_candidates(group, grader, config.unanswered) for group in tracked(groups, "grouping answers", main)
        ]
    scores = scorer.score_all(groups, folder, key)

    sizes = selection.sizes(min(map(len, groups)))
    largest = sizes[-1:]
    curves = accuracy_curves(config, candidates, scores, sizes)
    chosen = pick(scores, config.aggregate, config.over)
    resampling = (config.bootstrap_resamples, config.seed)
    metrics = {
        "scorer": config.scores_column or config.checkpoint,
        "aggregate": f"{config.aggregate} over {config.over}",
        "problems": len(groups),
        "responses": sum(map(len, groups)),
        "unanswered_responses": int(sum((c.classes < 0).sum() for c in candidates)),
        "cut_off_responses": sum(group.finished.count(False) for group in groups),
        "sizes": sizes,
        "accuracy": {name: _intervals(values, sizes, config) for name, values in curves.items()},
        "difference": {
            f"{name} - {base}": _intervals(values, sizes, config, curves[base])
            for base in (MAJORITY, LIKELIHOOD)
            for name, values in curves.items()
            if base in curves and name not in (base, LIKELIHOOD, ORACLE)
        },
        "aggregates": {
            name: _intervals(
                best_of(candidates, pick(scores, name, config.over), largest, config.ties), largest, config
            )
            for name in AGGREGATES
        },
        "steps": step_metrics(groups, scores, config.seed) if scorer.by_step else {},
        "reliability": reliability(candidates, chosen, *resampling),
        "lowest_step": lowest_step_positions(candidates, scores, *resampling) if scorer.by_step else {},
        "votes": {"draws": config.vote_draws, "weight": weight_rule(config, scores), "ties": "shared"},
        "bootstrap": {"resamples": config.bootstrap_resamples, "over": "problems", "level": 0.95},
        "config": asdict(config),
    }
    if main:
        write_json(folder / "metrics.json", metrics)
        report.save_figure(metrics, folder / "accuracy.png")
        page.write(folder / "report.html", metrics, groups, candidates, scores, chosen)
    return metrics


def prepare(config: BestOfNConfig, folder: Path, say: Callable[[str], None]) -> tuple[list[Group], OpenScorer, str]:
    """Candidates (sampled first if no file is given), what scores them, and the key of the scores."""
    scorer = open_scorer(config, config.steps, skip_too_long=config.too_long == "lowest")
    source = config.candidates
    if source is None:
        source = str(rollout(replace(config.rollout, output=str(folder / config.rollout.output)), say))
    groups = load_groups(source, graded=False)
    if config.candidates is None:
        groups = groups[: config.rollout.problems.limit]  # the file may hold more, of a longer run before
    groups = groups[: config.max_problems]
    if config.max_responses is not None:
        groups = take_responses(groups, config.max_responses, config.seed)
    if len({len(group) for group in groups}) > 1:
        say(f"problems have {min(map(len, groups))} to {max(map(len, groups))} responses; N goes up to the smallest")
    if scorer.prm is not None and config.too_long == "error":
        check_lengths(groups, scorer.prm)
    return groups, scorer, scorer.key(groups)


def graded(group: Group, grader: Grader) -> Group:
    """The group with every response graded; labels that are there are kept."""
    if None not in group.correctness:
        return group
    if group.answer is None:
        raise ImplicitPRMError(f"problem {group.id}: no correctness and no answer to grade against; give one of them")
    answer = group.answer
    labels: list[bool | None] = [
        grader.grade(text, answer).correct if label is None else label
        for text, label in zip(group.completions, group.correctness, strict=True)
    ]
    return replace(group, correctness=labels)


def as_candidates(group: Group, grader: Grader, unanswered: str) -> Candidates:
    """Group equal answers. A response that was cut off can neither vote nor be picked, whatever it boxed before."""
    valid = np.array(group.finished, dtype=bool)
    answers = [extract_answer(text) if ok else None for text, ok in zip(group.completions, valid, strict=True)]
    classes = np.array(grader.answer_classes(answers))
    if unanswered == "lowest":
        valid &= classes >= 0
    return Candidates(np.array(group.correctness, dtype=bool), classes, valid)


def pick(scores: Sequence[Sequence[StepScores]], how: str, over: str) -> list[np.ndarray]:
    """[K] aggregate of every response, for every problem."""
    return [np.array([aggregate(one, how, over) for one in some]) for some in scores]


def best_of(
    candidates: Sequence[Candidates], values: Sequence[np.ndarray], sizes: Sequence[int], ties: str
) -> np.ndarray:
    """[problems, sizes] accuracy of the highest value among N; of equals, the first, or an even share of each."""
    ranked = [np.where(c.valid, v, -np.inf) for c, v in zip(candidates, values, strict=True)]
    if ties == "first":
        ranked = [-np.argsort(np.argsort(-v, kind="stable")) for v in ranked]
    return np.array(
        [[selection.best_of_n(v, c.correct, n) for n in sizes] for c, v in zip(candidates, ranked, strict=True)]
    )


def accuracy_curves(
    config: BestOfNConfig, candidates: Sequence[Candidates], scores: Sequence[Sequence[StepScores]], sizes: list[int]
) -> Curves:
    """Every curve of the report, all from the same candidates."""
    chosen, votes_over = pick(scores, config.aggregate, config.over), pick(scores, *config.votes_over)
    label = f"{config.aggregate} of {_NAMES[config.over]}"
    log_ratio = scores[0][0].kind == "log_ratio"
    weights = [vote_weights(values, signed_votes(config, scores), config.vote_scale) for values in votes_over]
    curves = {
        f"PRM, {label}": best_of(candidates, chosen, sizes, config.ties),
        "weighted vote": _vote(config, candidates, weights, sizes),
        MAJORITY: _vote(config, candidates, None, sizes),
    }
    if log_ratio and not (config.aggregate == "sum" and config.over == "step"):
        curves["PRM, sum (as an ORM)"] = best_of(candidates, pick(scores, "sum", "step"), sizes, config.ties)
    likelihood = [np.array([_or_lowest(one.reference_logprob) for one in some]) for some in scores]
    if any(np.isfinite(values).any() for values in likelihood):
        curves[LIKELIHOOD] = best_of(candidates, likelihood, sizes, config.ties)
    curves["random pick"] = np.array([[selection.mean_accuracy(c.correct)] * len(sizes) for c in candidates])
    curves[ORACLE] = np.array([[selection.pass_at_k(c.correct, n) for n in sizes] for c in candidates])
    return curves


def signed_votes(config: BestOfNConfig, scores: Sequence[Sequence[StepScores]]) -> bool:
    """Is what weights a vote a log-ratio? A sigmoid makes it a weight; a product is one of probabilities already."""
    return scores[0][0].kind == "log_ratio" and config.votes_over[0] != "product"


def vote_weights(values: np.ndarray, signed: bool, scale: float) -> np.ndarray:
    """[K] what the responses' votes weigh: sigmoid(scale * value) of log-ratios; a probability is a weight as it is."""
    return np.array([sigmoid(scale * value) if signed else max(value, 0.0) for value in values.tolist()])


def weight_rule(config: BestOfNConfig, scores: Sequence[Sequence[StepScores]]) -> str:
    """What a response's vote weighs, in words."""
    value = "{} over {}".format(*config.votes_over)
    scale = "" if config.vote_scale == 1 else f"{config.vote_scale:g} * "
    return f"sigmoid({scale}{value})" if signed_votes(config, scores) else value


def _vote(
    config: BestOfNConfig, candidates: Sequence[Candidates], weights: Sequence[np.ndarray] | None, sizes: list[int]
) -> np.ndarray:
    rng = np.random.default_rng(config.seed)
    rows = []
    for place, c in enumerate(candidates):
        weight = None if weights is None else np.where(c.valid, weights[place], 0.0)
        rows.append(selection.votes(weight, c.correct, c.classes, sizes, config.vote_draws, rng))
    return np.array(rows)


def _intervals(
    values: np.ndarray, sizes: Sequence[int], config: BestOfNConfig, base: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """Mean over problems at each size, or mean of the difference to `base` on the same problems."""
    options = (config.bootstrap_resamples, config.seed)
    intervals = {}
    for column, n in enumerate(sizes):
        mine = values[:, column]
        found = bootstrap_mean(mine, *options) if base is None else paired_difference(mine, base[:, column], *options)
        intervals[str(n)] = asdict(found)
    return intervals


def _or_lowest(value: float | None) -> float:
    return -math.inf if value is None else value
