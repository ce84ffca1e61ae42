"""ProcessBench: find the first wrong step, with a threshold that was not fitted on the rows it is measured on."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from implicit_prm.config import CROSS_FIT, ProcessBenchConfig, ScorerConfig
from implicit_prm.data.process_bench import load_process_bench, same_problem
from implicit_prm.evaluation.process_bench import thresholds as th
from implicit_prm.evaluation.process_bench.metrics import (
    READINGS,
    f1_of,
    interval,
    spread,
    subset_metrics,
    write_predictions,
)
from implicit_prm.evaluation.process_bench.subset import Subset, Verdict, blind
from implicit_prm.evaluation.results import validated, write_results
from implicit_prm.evaluation.scorer import OpenScorer, open_scorer
from implicit_prm.evaluation.statistics import resampled_counts
from implicit_prm.types import Group, ImplicitPRMError, StepScores
from implicit_prm.utils.distributed import is_first, spoken_once
from implicit_prm.utils.lock import locked
from implicit_prm.utils.secrets import without_secrets

FOLDS = 10


def run_process_bench(config: ProcessBenchConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """`ipr-eval task=processbench`: open what the config names, and evaluate it; results go to `config.folder`.

    Returns:
        The metrics, as metrics.json holds them; see `evaluate_subsets`.

    Raises:
        ImplicitPRMError: anything wrong with options, data or checkpoint, or no threshold to be fitted.
    """
    config, say = validated(config), spoken_once(say)
    groups = {name: load_subset(config, source) for name, source in config.sources.items()}
    scorer = open_scorer(config, steps="given", skip_too_long=config.too_long == "wrong")
    with locked(config.folder, inside=True):
        return evaluate_subsets(config, groups, scorer, Path(config.folder), say)


def evaluate_subsets(
    config: ProcessBenchConfig,
    groups: Mapping[str, list[Group]],
    scorer: OpenScorer,
    folder: Path | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Score every subset and find the first wrong steps.

    A solution's prediction is its first step whose value is below the threshold, -1 if there is none; F1 is the
    harmonic mean of the accuracies on solutions with and without a wrong step (arXiv 2412.06559). Intervals are 95 %
    percentile bootstrap over problems; the threshold is refitted in each resample.

    Args:
        config: which step values are read, the threshold, number of resamples and seed.
        groups: the problems of each subset.
        scorer: what scores them.
        folder: for metrics.json, trade_off.png, report.html and a folder per subset; None writes nothing.
        say: prints the size of each subset.

    Returns:
        The metrics, as metrics.json holds them; undefined values are None.
    """
    require_step_scores(scorer)
    for name, some in groups.items():
        say(f"{name}: {len(some)} problems, {sum(map(len, some))} solutions")
        scorer.check(some, lengths=config.too_long == "error")
    subsets = {
        name: score_subset(config, name, some, scorer, None if folder is None else folder / name, config.seed + place)
        for place, (name, some) in enumerate(groups.items())
    }
    verdicts = {name: all_verdicts(config, one, subsets) for name, one in subsets.items()}
    metrics = process_bench_metrics(config, subsets, verdicts, scorer)
    if folder is not None and is_first():
        from implicit_prm.evaluation.process_bench import figures, page  # matplotlib

        judged = [(one, verdicts[name][READINGS[config.over]]) for name, one in subsets.items()]
        for one, verdict in judged:
            write_predictions(one, verdict, config.over, folder / one.name / "predictions.jsonl")
        curves = {name: th.accuracy_curve(one.windows(config.over)) for name, one in subsets.items()}
        write_results(
            folder,
            metrics,
            {"trade_off.png": figures.trade_off_figure(metrics, curves)},
            lambda path: page.write(path, metrics, curves, judged, config.over),
        )
    return metrics


def require_step_scores(scorer: OpenScorer) -> None:
    """Raises ImplicitPRMError for an outcome reward model, whose one score says nothing about steps."""
    if not scorer.by_step:
        raise ImplicitPRMError(
            f"step labels need a score for every step; {scorer.name} is an outcome reward model. Use one of kind "
            "value_head or next_token"
        )


def all_verdicts(config: ProcessBenchConfig, one: Subset, subsets: dict[str, Subset]) -> dict[str, Verdict]:
    """The verdicts on a subset by each reading of the scores and without them; the reading of `config.over` first."""
    readings: list[str] = [config.over]
    if isinstance(config.threshold, str):  # another reading needs only another threshold
        others = [name for name in READINGS if name != config.over]
        readings += [name for name in others if all(can_be_read(some, name) for some in subsets.values())]
    return {READINGS[over]: judge(config, one, subsets, over) for over in readings} | blind(one)


def process_bench_metrics(
    config: ProcessBenchConfig,
    subsets: Mapping[str, Subset],
    verdicts: Mapping[str, dict[str, Verdict]],
    scorer: OpenScorer,
) -> dict[str, Any]:
    """What metrics.json holds."""
    f1s = [f1_of(one, verdicts[name]) for name, one in subsets.items()]
    return {
        "scorer": scorer.name,
        "values": READINGS[config.over],
        "subsets": {name: subset_metrics(one, verdicts[name], config) for name, one in subsets.items()},
        "mean_f1": {name: interval(np.mean([f1[name] for f1 in f1s], axis=0)) for name in f1s[0]},
        "bootstrap": {
            "resamples": config.bootstrap_resamples,
            "over": "problems",
            "level": 0.95,
            "threshold_refitted": isinstance(config.threshold, str),
        },
        "config": without_secrets(asdict(config)),
    }


def load_subset(config: ProcessBenchConfig, source: str) -> list[Group]:
    """The problems of a subset, or `max_problems` random ones: the official files list wrong solutions first."""
    return random_problems(load_process_bench(source, config.dataset, config.dataset_revision), config)


def random_problems(groups: list[Group], config: ScorerConfig) -> list[Group]:
    """`max_problems` random problems, in the order of the file; all without that option."""
    if config.max_problems is None or config.max_problems >= len(groups):
        return groups
    chosen = random.Random(config.seed).sample(range(len(groups)), config.max_problems)
    return [groups[place] for place in sorted(chosen)]


def score_subset(
    config: ProcessBenchConfig, name: str, groups: list[Group], scorer: OpenScorer, folder: Path | None, seed: int
) -> Subset:
    """A subset with its scores (kept in `folder`) and the resamples that all of its intervals use."""
    scores = scores_of_given_steps(name, groups, scorer, folder)
    sizes = [len(group) for group in groups]
    drawn = np.concatenate(list(resampled_counts(len(groups), config.bootstrap_resamples, seed, len(groups))))
    counts = np.concatenate([np.ones((1, len(groups))), drawn])
    return Subset(name, groups, scores, np.repeat(counts, sizes, axis=1))


def scores_of_given_steps(
    name: str, groups: list[Group], scorer: OpenScorer, folder: Path | None
) -> list[list[StepScores]]:
    """The scores of every solution, kept in `folder`; none for a solution that is too long for the model.

    Raises:
        ImplicitPRMError: a solution with another number of scores than labelled steps; names it.
    """
    scores = scorer.score_all(groups, folder)
    for group, some in zip(groups, scores, strict=True):
        for place, (labels, one) in enumerate(zip(group.step_labels or [], some, strict=True)):
            steps = len(labels or [])
            # A model leaves a solution that is too long without scores; a column must have them all.
            if len(one.step_rewards) not in (0, steps) or (scorer.column is not None and not one.step_rewards):
                raise ImplicitPRMError(
                    f"{name}, solution {group.extra['ids'][place]}: expected {steps} scores from {scorer.name}, one "
                    f"per step, got {len(one.step_rewards)}; steps are the ones that are given (steps=given)"
                )
    return scores


def can_be_read(one: Subset, over: str) -> bool:
    """Whether the scores have these step values: probabilities have no running sums, a column has no token counts."""
    needed = {"step": "step_rewards", "step_mean": "step_tokens", "prefix": "prefix_values"}[over]
    return all(getattr(score, needed) is not None for some in one.scores for score in some)


def judge(config: ProcessBenchConfig, one: Subset, subsets: dict[str, Subset], over: str) -> Verdict:
    """Judge the solutions of a subset by a given threshold, or by one that was fitted on other rows."""
    windows = one.windows(over)
    size = len(windows)
    if isinstance(config.threshold, float):
        used = np.full(size, config.threshold)
        return Verdict(windows.hits(used).astype(float), {"fitted_on": None, **spread(used)}, used)
    origin: dict[str, Any]
    if config.threshold in (CROSS_FIT, one.name):
        folds = fold_of_problem(len(one.groups), config.seed)[one.problem]
        fitted = th.cross_fit(windows, folds, one.weights)
        origin = {"fitted_on": one.name, "folds": len(np.unique(folds))}
    else:
        source = subsets[config.threshold]
        reported = {same_problem(str(group.prompt)) for group in one.groups}
        shared = np.array([same_problem(str(group.prompt)) in reported for group in source.groups])
        keep = ~shared[source.problem]
        fitted = th.best_thresholds(source.windows(over).take(keep), source.weights[:, keep])[:, None]
        origin = {"fitted_on": source.name, "left_out_problems": int(shared.sum())}
    if np.isnan(fitted[0]).any():
        raise ImplicitPRMError(
            f"{one.name}: no threshold can be fitted on {origin['fitted_on']}: every part that is fitted on needs "
            "solutions with and without a wrong step. Use more problems, or set threshold to another subset or a number"
        )
    fitted = np.broadcast_to(fitted, (len(fitted), size))
    hits = np.where(np.isnan(fitted), np.nan, windows.hits(fitted))
    return Verdict(hits, origin | spread(fitted[0]), fitted[0])


def fold_of_problem(problems: int, seed: int) -> NDArray[np.int64]:
    """[problems] random fold numbers, as even as possible; all solutions of a problem are in one fold."""
    return np.random.default_rng(seed).permutation(problems) % min(FOLDS, problems)
