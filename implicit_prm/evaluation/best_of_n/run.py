"""Best-of-N: candidates in, accuracy against N out, for the scorer and for what it has to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from implicit_prm.config import BestOfNConfig, RerankConfig
from implicit_prm.data.groups import fingerprint, load_groups
from implicit_prm.evaluation import selection
from implicit_prm.evaluation.best_of_n.against import earlier_scores
from implicit_prm.evaluation.best_of_n.candidates import grade, select
from implicit_prm.evaluation.best_of_n.curves import (
    accuracy_curves,
    aggregated,
    best_of,
    differences,
    intervals,
    rankings,
    weight_rule,
)
from implicit_prm.evaluation.best_of_n.diagnostics import diagnostics
from implicit_prm.evaluation.best_of_n.lowest_step import last_step_share, lowest_step_positions
from implicit_prm.evaluation.best_of_n.reliability import reliability
from implicit_prm.evaluation.best_of_n.within_problem import within_problem_auroc
from implicit_prm.evaluation.results import validated, write_results
from implicit_prm.evaluation.scorer import OpenScorer, have_steps, open_scorer
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.step_errors import step_metrics
from implicit_prm.rewards.implicit_reward import AGGREGATES
from implicit_prm.rollouts.run import rollout
from implicit_prm.types import Group, StepScores
from implicit_prm.utils.distributed import is_first, spoken_once
from implicit_prm.utils.lock import locked
from implicit_prm.utils.secrets import without_secrets


def run_best_of_n(config: BestOfNConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """`ipr-eval task=best_of_n`: open what the config names, and evaluate it; results go to `config.folder`.

    Returns:
        The metrics, as metrics.json holds them; see `evaluate_best_of_n`.

    Raises:
        ImplicitPRMError: anything wrong with options, candidates or checkpoint.
    """
    config = validated(config)
    groups, scorer = prepare(config, spoken_once(say))
    with locked(config.folder, inside=True):
        return evaluate_best_of_n(config, groups, scorer, Path(config.folder))


def prepare(config: RerankConfig, say: Callable[[str], None]) -> tuple[list[Group], OpenScorer]:
    """The candidates (sampled first if no file is given) and what scores them; what cannot work is refused here."""
    # A file is read before a model is loaded; to sample takes hours, so there the checkpoint is looked at first.
    groups = None if config.candidates is None else select(load_groups(config.candidates, graded=False), config, say)
    scorer = open_scorer(config, config.steps, skip_too_long=config.too_long == "lowest")
    if groups is None:
        groups = select(_sample(config, say), config, say)
    scorer.check(groups, lengths=config.too_long == "error")
    return groups, scorer


def _sample(config: RerankConfig, say: Callable[[str], None]) -> list[Group]:
    """Candidates for `config.rollout`'s problems, sampled into the output folder."""
    assert config.rollout is not None  # RerankConfig.validate
    path = Path(config.folder) / config.rollout.output
    sampled = rollout(replace(config.rollout, output=str(path), grading=config.grading), say)
    groups = load_groups(str(sampled), graded=False)
    return groups[: config.rollout.problems.limit]  # the file may hold more, of an earlier and longer run


def evaluate_best_of_n(
    config: BestOfNConfig, groups: Sequence[Group], scorer: OpenScorer, folder: Path | None
) -> dict[str, Any]:
    """Grade and score the candidates; accuracies with their intervals.

    Accuracies at N are expectations over all subsets of N candidates of a problem, in closed form for best-of-N and
    pass@N, over `vote_draws` seeded draws for the votes. Intervals are 95 % percentile bootstrap over problems.

    Args:
        config: how to choose and to resample.
        groups: candidates.
        scorer: what scores them.
        folder: for metrics.json, scores.parquet, accuracy.png and report.html; None writes nothing.

    Returns:
        The metrics, as metrics.json holds them.
    """
    main = is_first()
    groups, candidates = grade(groups, config)
    others = earlier_scores(config.against, groups, fingerprint(groups))
    scores = scorer.score_all(groups, folder)
    metrics = best_of_n_metrics(config, groups, candidates, scores, scorer, others)
    if folder is not None and main:
        from implicit_prm.evaluation.best_of_n import figures, page  # matplotlib

        chosen = aggregated(scores, config.aggregate, config.over)
        write_results(
            folder,
            metrics,
            {"accuracy.png": figures.accuracy_figure(metrics)},
            lambda path: page.write(path, metrics, groups, candidates, scores, chosen),
        )
    return metrics


def best_of_n_metrics(
    config: BestOfNConfig,
    groups: Sequence[Group],
    candidates: Sequence[Candidates],
    scores: Sequence[Sequence[StepScores]],
    scorer: OpenScorer,
    others: Mapping[str, Sequence[np.ndarray]],
) -> dict[str, Any]:
    """What metrics.json holds; `others` are the scores of earlier evaluations (`earlier_scores`)."""
    sizes = selection.sizes(min(map(len, groups)))
    largest = sizes[-1:]
    ranked_by = rankings(config, scores) | dict(others)
    curves = accuracy_curves(config, candidates, scores, ranked_by, sizes)
    chosen = aggregated(scores, config.aggregate, config.over)
    by_step = scorer.by_step and have_steps(scores)
    resampling = (config.bootstrap_resamples, config.seed)
    return {
        "scorer": scorer.name,
        "aggregate": f"{config.aggregate} over {config.over}",
        "problems": len(groups),
        "responses": sum(map(len, groups)),
        "candidates_fingerprint": fingerprint(groups),
        "unanswered_responses": int(sum((c.classes < 0).sum() for c in candidates)),
        "unanswered_correct_responses": int(sum((c.correct & (c.classes < 0)).sum() for c in candidates)),
        "cut_off_responses": sum(group.finished.count(False) for group in groups),
        "sizes": sizes,
        "accuracy": {name: intervals(values, sizes, config) for name, values in curves.items()},
        "difference": differences(curves, sizes, config, others),
        "aggregates": {
            name: intervals(
                best_of(candidates, aggregated(scores, name, config.over), largest, config.ties), largest, config
            )
            for name in AGGREGATES
        },
        "steps": step_metrics(groups, scores, config.seed) if by_step else {},
        "within_problem_auroc": within_problem_auroc(candidates, ranked_by, *resampling),
        "reliability": reliability(candidates, chosen, *resampling),
        "lowest_step": lowest_step_positions(candidates, scores, *resampling) if by_step else {},
        "last_step": last_step_share(scores, *resampling) if by_step else {},
        **diagnostics(config, candidates, scores, ranked_by, scorer.beta, sizes[-1]),
        "votes": {"draws": config.vote_draws, "weight": weight_rule(config, scores), "ties": "shared"},
        "bootstrap": {"resamples": config.bootstrap_resamples, "over": "problems", "level": 0.95},
        "config": without_secrets(asdict(config)),
    }
