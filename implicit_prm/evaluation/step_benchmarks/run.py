"""PRMBench and Hard2Verify: judge every step by a threshold that was not fitted on the rows it is measured on."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from implicit_prm.config import CROSS_FIT, Hard2VerifyConfig, StepBenchmarkConfig
from implicit_prm.data.step_benchmarks import load_hard2verify, load_prmbench
from implicit_prm.evaluation.process_bench import thresholds as th
from implicit_prm.evaluation.process_bench.metrics import READINGS, interval, spread
from implicit_prm.evaluation.process_bench.run import random_problems, require_step_scores, scores_of_given_steps
from implicit_prm.evaluation.results import validated, write_results
from implicit_prm.evaluation.scorer import OpenScorer, open_scorer
from implicit_prm.evaluation.statistics import Interval, clustered_auroc, finite
from implicit_prm.evaluation.step_benchmarks import judgement as j
from implicit_prm.evaluation.step_benchmarks.solutions import Judged, Solutions, judged, solutions_of
from implicit_prm.types import Group
from implicit_prm.utils.distributed import is_first, spoken_once
from implicit_prm.utils.io import atomic_write
from implicit_prm.utils.lock import locked
from implicit_prm.utils.secrets import without_secrets

POSITION, ALL_RIGHT = "position of the step", "every step is right"


@dataclass(frozen=True)
class Benchmark:
    """What differs between the benchmarks: how rows are read, the metric that thresholds maximise, and all figures."""

    name: str
    load: Callable[[str, str, str | None, Counter[str]], list[Group]]
    metric: j.Metric
    figures: Callable[[Solutions, Judged], dict[str, j.Floats]]  # the first is the benchmark's own


def run_step_benchmark(config: StepBenchmarkConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """`ipr-eval task=prmbench` and `task=hard2verify`; results go to `config.folder`.

    Returns:
        The metrics, as metrics.json holds them; see `evaluate_steps`.

    Raises:
        ImplicitPRMError: anything wrong with options, data or checkpoint, or no threshold to be fitted.
    """
    config, say = validated(config), spoken_once(say)
    groups = load_benchmark(config, say)
    scorer = open_scorer(config, steps="given", skip_too_long=config.too_long == "wrong")
    with locked(config.folder, inside=True):
        return evaluate_steps(config, groups, scorer, Path(config.folder))


def benchmark_of(config: StepBenchmarkConfig) -> Benchmark:
    """The benchmark whose options these are."""
    return HARD2VERIFY if isinstance(config, Hard2VerifyConfig) else PRMBENCH


def load_benchmark(config: StepBenchmarkConfig, say: Callable[[str], None]) -> list[Group]:
    """The problems, or `max_problems` random ones. Says how many solutions are left out, and why."""
    dropped: Counter[str] = Counter()
    groups = benchmark_of(config).load(config.dataset, config.split, config.dataset_revision, dropped)
    for reason, count in dropped.items():
        say(f"left out: {count} {reason}")
    return random_problems(groups, config)


def evaluate_steps(
    config: StepBenchmarkConfig, groups: list[Group], scorer: OpenScorer, folder: Path | None
) -> dict[str, Any]:
    """Score every solution and judge every step: wrong if its value is below the threshold.

    Intervals are 95 % percentile bootstrap over problems; a cross-fitted threshold is refitted in each resample.
    The position of a step as its score (later steps are lower) and "every step is right" do not read the solution.

    Args:
        config: which step values are read, the threshold, number of resamples and seed.
        groups: the problems.
        scorer: what scores them.
        folder: for metrics.json, scores.parquet, predictions.jsonl and report.html; None writes nothing.

    Returns:
        The metrics, as metrics.json holds them; undefined values are None.
    """
    benchmark = benchmark_of(config)
    require_step_scores(scorer)
    scorer.check(groups, lengths=config.too_long == "error")
    scores = scores_of_given_steps(benchmark.name, groups, scorer, folder)
    some = solutions_of(groups, scores, config.over, config.bootstrap_resamples, config.seed)
    ours = judged(some, some.values, config.threshold, benchmark.metric, config.seed)
    metrics = _metrics(config, benchmark, some, ours, scorer.name)
    if folder is not None and is_first():
        from implicit_prm.evaluation.step_benchmarks import page  # jinja2

        write_predictions(some, ours, folder / "predictions.jsonl")
        write_results(folder, metrics, {}, lambda path: page.write(path, metrics))
    return metrics


def _metrics(
    config: StepBenchmarkConfig, benchmark: Benchmark, some: Solutions, ours: Judged, scorer: str
) -> dict[str, Any]:
    name = READINGS[config.over]
    figures = {name: benchmark.figures(some, ours)}
    positions = [[-float(step) for step in range(len(right))] for right in some.labels]
    blind: dict[str, float | str] = {POSITION: CROSS_FIT} if some.can_be_fitted else {}
    for other, threshold in (blind | {ALL_RIGHT: -math.inf}).items():
        figures[other] = benchmark.figures(some, judged(some, positions, threshold, benchmark.metric, config.seed))
    main = next(iter(figures[name]))
    kinds = np.unique(some.kinds)
    steps = [right for labels in some.labels for right in labels]
    fixed = isinstance(config.threshold, float)
    return {
        "benchmark": benchmark.name,
        "scorer": scorer,
        "values": name,
        "problems": int(some.problem.max()) + 1,
        "solutions": len(some.ids),
        "steps": len(steps),
        "wrong_steps": steps.count(False),
        "unscored": sum(not values for values in some.values),
        "threshold": {"cross_fitted": not fixed, **spread(ours.thresholds[0])},
        "results": {row: {key: interval(value) for key, value in found.items()} for row, found in figures.items()},
        "difference": {
            row: interval(figures[name][main] - found[main]) for row, found in figures.items() if row != name
        },
        "classes": {
            str(kind): interval(benchmark.metric(ours.counts.sums(some.weights, some.kinds == kind))) for kind in kinds
        },
        "step_auroc": finite(_step_auroc(some, config.bootstrap_resamples, config.seed)),
        "bootstrap": {"resamples": config.bootstrap_resamples, "over": "problems", "level": 0.95},
        "config": without_secrets(asdict(config)),
    }


def _step_auroc(some: Solutions, resamples: int, seed: int) -> Interval:
    """AUROC of right against wrong steps of all scored solutions."""
    right: list[list[float]] = [[] for _ in range(int(some.problem.max()) + 1)]
    wrong: list[list[float]] = [[] for _ in right]
    for problem, labels, values in zip(some.problem, some.labels, some.values, strict=True):
        for is_right, value in zip(labels, values, strict=False):  # no values if it was not scored
            (right if is_right else wrong)[problem].append(value)
    return clustered_auroc(right, wrong, resamples, seed)


def write_predictions(some: Solutions, one: Judged, path: Path) -> None:
    """JSON lines, one per solution: labels, step values, and the threshold below which a step is judged wrong."""
    with atomic_write(path) as stream:
        rows = zip(some.ids, some.kinds.tolist(), some.labels, some.values, one.thresholds[0].tolist(), strict=True)
        for identifier, kind, labels, values, threshold in rows:
            row = {"id": identifier, "class": kind, "labels": labels, "values": values, "threshold": threshold}
            stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def _prmbench_figures(some: Solutions, one: Judged) -> dict[str, j.Floats]:
    counts = one.counts.sums(some.weights, some.everything)
    return {"PRMScore": j.prm_score(counts), "F1": j.f1_right(counts), "negative F1": j.f1_wrong(counts)}


def _hard2verify_figures(some: Solutions, one: Judged) -> dict[str, j.Floats]:
    """Balanced F1 of the three tasks: every step, the whole solution, and the first wrong step.

    A solution is judged right if all of its steps are; its first wrong step is the first that is judged wrong. One that
    was not scored is judged wrongly.
    """
    counts = one.counts.sums(some.weights, some.everything)
    tpr, tnr = j.true_rates(counts)
    erroneous = some.first_errors != -1
    accepted = (one.counts.fn == 0) & (one.counts.tn == 0)
    scored = np.array([bool(values) for values in one.values])
    verdicts = {
        "solutions": (np.where(erroneous, ~accepted, accepted) & scored).astype(float),
        "first wrong step": th.windows(one.values, some.first_errors.tolist()).hits(one.thresholds).astype(float),
    }
    f1s = {name: th.f1(*th.accuracies(hits, erroneous, some.weights)) for name, hits in verdicts.items()}
    return {"steps": j.balanced_f1(counts), "right steps": tpr, "wrong steps": tnr, **f1s}


PRMBENCH = Benchmark("PRMBench", load_prmbench, j.prm_score, _prmbench_figures)
HARD2VERIFY = Benchmark("Hard2Verify", load_hard2verify, j.balanced_f1, _hard2verify_figures)
