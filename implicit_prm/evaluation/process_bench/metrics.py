"""Metrics of a subset with their intervals, and its predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from implicit_prm.config import ProcessBenchConfig
from implicit_prm.data.groups import subset
from implicit_prm.evaluation.process_bench import thresholds as th
from implicit_prm.evaluation.process_bench.subset import BLIND, Subset, Verdict
from implicit_prm.evaluation.statistics import finite, percentile_interval
from implicit_prm.evaluation.step_errors import step_metrics
from implicit_prm.rewards.implicit_reward import step_values
from implicit_prm.utils.io import atomic_write

READINGS = {"step": "PRM, step scores", "step_mean": "PRM, step means", "prefix": "PRM, prefix values"}


def f1_of(one: Subset, verdicts: dict[str, Verdict]) -> dict[str, th.Floats]:
    """[1 + resamples] F1 of each verdict: on the sample, then on each resample."""
    erroneous = one.labels != -1
    return {name: th.f1(*th.accuracies(v.hits, erroneous, one.weights)) for name, v in verdicts.items()}


def subset_metrics(one: Subset, verdicts: dict[str, Verdict], config: ProcessBenchConfig) -> dict[str, Any]:
    """The entry of a subset in metrics.json."""
    erroneous = one.labels != -1
    everything = np.ones(len(erroneous), dtype=bool)
    chosen = READINGS[config.over]
    final = np.array([correct for group in one.groups for correct in group.correctness], dtype=bool)
    generators = np.array(one.column("generators"))
    f1s = f1_of(one, verdicts)

    def part(rows: NDArray[np.bool_]) -> dict[str, Any]:
        return _figures(verdicts[chosen].hits, erroneous, one.weights, rows)

    return {
        "problems": len(one.groups),
        "solutions": len(erroneous),
        "erroneous": int(erroneous.sum()),
        "unscored": sum(not values for values in one.values(config.over)),
        "results": {
            name: {"threshold": v.threshold, **_figures(v.hits, erroneous, one.weights, everything)}
            for name, v in verdicts.items()
        },
        "f1_difference": {
            f"{chosen} - {name}": interval(f1s[chosen] - f1s[name])
            for name in (*READINGS.values(), BLIND)
            if name in f1s and name != chosen
        },
        "steps": _step_metrics(one, config),
        "by_final_answer": {"correct": part(final), "incorrect": part(~final)},
        "by_generator": {str(name): part(generators == name) for name in np.unique(generators)},
    }


def write_predictions(one: Subset, verdict: Verdict, over: str, path: Path) -> None:
    """JSON lines, one per solution: label, prediction, threshold and step values."""
    assert verdict.used is not None
    rows = zip(
        one.column("ids"),
        one.column("generators"),
        one.labels.tolist(),
        one.values(over),
        verdict.used.tolist(),
        strict=True,
    )
    with atomic_write(path) as stream:
        for identifier, generator, label, values, threshold in rows:
            row = {
                "id": identifier,
                "generator": generator,
                "label": label,
                "prediction": th.predict(values, threshold) if values else None,
                "threshold": threshold,
                "values": values,
            }
            stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def _step_metrics(one: Subset, config: ProcessBenchConfig) -> dict[str, Any]:
    """Metrics of the step values that need no threshold: AUROC, lowest step. Unscored solutions are left out."""
    groups, scores = [], []
    for group, some in zip(one.groups, one.scores, strict=True):
        keep = [place for place, score in enumerate(some) if score.step_rewards]
        groups.append(subset(group, keep))
        scores.append([replace(some[place], step_rewards=step_values(some[place], config.over)) for place in keep])
    found = step_metrics(groups, scores, config.seed)
    return {name: finite(value) if isinstance(value, dict) else value for name, value in found.items()}


def _figures(
    hits: NDArray[np.float64], erroneous: NDArray[np.bool_], weights: th.Floats, rows: NDArray[np.bool_]
) -> dict[str, Any]:
    wrong, right = th.accuracies(hits[..., rows], erroneous[rows], weights[:, rows])
    return {
        "solutions": int(rows.sum()),
        "erroneous": int((erroneous & rows).sum()),
        "accuracy_erroneous": interval(wrong),
        "accuracy_correct": interval(right),
        "f1": interval(th.f1(wrong, right)),
    }


def interval(figure: th.Floats) -> dict[str, float | None]:
    """[1 + resamples] values -> the first, with the percentile interval of the others."""
    return finite(percentile_interval(float(figure[0]), [figure[1:]]))


def spread(used: Sequence[float] | th.Floats) -> dict[str, float]:
    """Median, lowest and highest of the thresholds that were used: one, or one per fold."""
    return {"value": float(np.median(used)), "lowest": float(np.min(used)), "highest": float(np.max(used))}
