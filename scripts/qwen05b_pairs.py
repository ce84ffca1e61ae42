"""Paired differences between the models of scripts/qwen05b_gsm8k.py, problem by problem, from their stored scores.

Two models are compared on the responses that both have scored: the control has scored half of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from implicit_prm.data.groups import load_groups, take_responses
from implicit_prm.evaluation import selection
from implicit_prm.evaluation.best_of_n.within_problem import problem_aurocs, problem_means
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.statistics import bootstrap_mean
from implicit_prm.rewards.implicit_reward import aggregate
from implicit_prm.scoring.store import read_scores
from implicit_prm.types import Group, StepScores

PAIRS = (
    ("ce", "shuffled"),
    ("dpo", "shuffled"),
    ("orm", "shuffled"),
    ("ce", "dpo"),
    ("ce", "orm"),
    ("ce", "value_head"),
    ("dpo", "orm"),
    ("dpo", "value_head"),
    ("pool-ce", "ce"),
    ("pool-dpo", "dpo"),
    ("pool-ce", "pool-dpo"),
    ("pool-ce", "shuffled"),
    ("pool-dpo", "shuffled"),
    ("pool-ce", "orm"),
    ("pool-dpo", "orm"),
)
# What a response is ranked by: its lowest step, or its outcome. The outcome is the sum of an implicit PRM's step
# rewards, and the last prediction of an explicit model.
READINGS = ("lowest step", "outcome")
RESAMPLES = 10_000
PEERS = 0.1  # largest difference of two models' accuracies
Scores = Sequence[np.ndarray]  # of every problem, [K]; NaN for a response that is not scored


def compare(path: Path, folders: Mapping[str, Path], limits: Mapping[str, int | None]) -> list[dict[str, Any]]:
    """The differences of all pairs of models that are there.

    Args:
        path: the candidates.
        folders: name of a model -> its evaluation of them.
        limits: name of a model -> `max_responses` of that evaluation.

    Returns:
        For each pair and reading: `models`, `reading`, and the differences `auroc` (within problems) and `best` (of all
        common responses), each with its 95 % bootstrap interval over problems.
    """
    groups = load_groups(str(path))
    scores = {
        (name, reading): outcomes(groups, folder, limits.get(name), reading)
        for name, folder in folders.items()
        for reading in READINGS
    }
    return [
        {"models": pair, "reading": reading, **difference(groups, *(scores[name, reading] for name in pair))}
        for reading in READINGS
        for pair in PAIRS
        if set(pair) <= set(folders)
    ]


def generators(train: Path, path: Path, limit: int | None) -> dict[str, Any]:
    """Within-problem AUROC of a score that knows which model wrote a response, and nothing of its text.

    The score is the share of that model's responses in `train` that are correct. A reward model that is not above it
    may have learnt no more than to recognise models.

    Args:
        train: rows of training problems, with the column `models`.
        path: the candidates, with the same column.
        limit: `max_responses` of their evaluation.
    """
    groups = load_groups(str(path))
    groups = groups if limit is None else take_responses(groups, limit)
    aurocs = problem_aurocs([_all_finished(group) for group in groups], _skills(train, groups))
    return problem_means({"": aurocs}, RESAMPLES, seed=0)[""]


def among_peers(
    train: Path, path: Path, folders: Mapping[str, Path], limits: Mapping[str, int | None]
) -> list[dict[str, Any]]:
    """Within-problem AUROC over the pairs that two models of about the same accuracy wrote.

    There, to recognise the model is of little use. The first row is that of `generators` on these pairs, and
    `difference` is from it.

    Args:
        train: rows of training problems, with the column `models`.
        path: the candidates, with the same column.
        folders: as for `compare`.
        limits: as for `compare`.
    """
    groups = load_groups(str(path))
    skills = _skills(train, groups)
    drawn = [outcomes(groups, folder, limits.get(name), READINGS[0]) for name, folder in folders.items()]
    scored = [np.isfinite(np.sum(one, axis=0)) for one in zip(*drawn, strict=True)]  # by all models
    rows = [("which model wrote it", "", [np.where(s, skill, np.nan) for s, skill in zip(scored, skills, strict=True)])]
    for name, folder in folders.items():
        rows += [(name, how, outcomes(groups, folder, limits.get(name), how)) for how in READINGS]
    aurocs = [
        np.array([_peer_auroc(*one) for one in zip(groups, scores, skills, strict=True)]) for _, _, scores in rows
    ]
    return [
        {
            **{"model": name, "reading": reading},
            **problem_means({"auroc": values, "difference": values - aurocs[0]}, RESAMPLES, seed=0),
        }
        for (name, reading, _), values in zip(rows, aurocs, strict=True)
    ]


def _peer_auroc(group: Group, values: np.ndarray, skills: np.ndarray) -> float:
    right = np.array(group.correctness) & np.isfinite(values)
    wrong = ~np.array(group.correctness) & np.isfinite(values)
    peers = np.abs(skills[right][:, None] - skills[wrong]) <= PEERS
    wins = (values[right][:, None] > values[wrong]) + 0.5 * (values[right][:, None] == values[wrong])
    return float(wins[peers].mean()) if peers.any() else float("nan")


def _skills(train: Path, groups: Sequence[Group]) -> list[np.ndarray]:
    """[K] accuracy on training problems of the model that wrote each response, for every problem."""
    labels = defaultdict(list)
    for group in load_groups(str(train)):
        for model, correct in zip(group.extra["models"], group.correctness, strict=True):
            labels[model].append(correct)
    return [np.array([np.mean(labels[model]) for model in group.extra["models"]]) for group in groups]


def _all_finished(group: Group) -> Candidates:
    return Candidates(np.array(group.correctness), np.zeros(len(group), int), np.ones(len(group), bool))


def outcomes(groups: Sequence[Group], folder: Path, limit: int | None, reading: str) -> list[np.ndarray]:
    """[K] the score of every response, for every problem; NaN for those that were not drawn or could not be scored."""
    numbered = [replace(group, extra={"place": list(range(len(group)))}) for group in groups]
    drawn = numbered if limit is None else take_responses(numbered, limit)
    found = []
    for group, taken, scores in zip(groups, drawn, read_scores(folder, drawn), strict=True):
        values = np.full(len(group), np.nan)
        values[taken.extra["place"]] = [value(one, reading) for one in scores]
        found.append(values)
    return found


def value(one: StepScores, reading: str) -> float:
    """The score of a response; NaN for one without steps."""
    if not one.step_rewards:
        return float("nan")
    outcome = "sum" if one.kind == "log_ratio" else "last"
    return aggregate(one, outcome if reading == "outcome" else "min")


def difference(groups: Sequence[Group], first: Scores, second: Scores) -> dict[str, dict[str, Any]]:
    """Differences of the within-problem AUROC, and of the accuracy of the highest score, on common responses."""
    common = [np.isfinite(a) & np.isfinite(b) for a, b in zip(first, second, strict=True)]
    candidates = [
        Candidates(np.array(group.correctness)[both], np.zeros(both.sum(), int), np.array(group.finished)[both])
        for group, both in zip(groups, common, strict=True)
        if both.any()
    ]
    kept = [[v[both] for v, both in zip(values, common, strict=True) if both.any()] for values in (first, second)]
    aurocs = problem_aurocs(candidates, kept[0]) - problem_aurocs(candidates, kept[1])
    best = [
        np.array([_best(c, v) for c, v in zip(candidates, values, strict=True)], dtype=np.float64) for values in kept
    ]
    return {
        "auroc": problem_means({"": aurocs}, RESAMPLES, seed=0)[""],
        "best": asdict(bootstrap_mean(best[0] - best[1], RESAMPLES, seed=0)),
    }


def _best(c: Candidates, values: np.ndarray) -> float:
    return selection.best_of_n(np.where(c.valid, values, -np.inf), c.correct, len(values))
