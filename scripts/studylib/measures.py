"""Figures of a cell: of every seed, with the same resamples of problems for all, so that differences are paired.

Two things vary: the problems and the training seeds. An interval resamples both, independently (a crossed bootstrap):
a figure is the mean over the drawn seeds of the figure on the drawn problems. With one seed it is over problems alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from implicit_prm.config import BestOfNConfig
from implicit_prm.evaluation.best_of_n.candidates import grade
from implicit_prm.evaluation.best_of_n.curves import MAJORITY, ORACLE, accuracy_curves
from implicit_prm.evaluation.best_of_n.run import prepare
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.statistics import Interval, auroc_resamples, percentile_interval, resampled_counts
from implicit_prm.evaluation.step_errors import step_errors
from implicit_prm.utils.io import atomic_write

SIZES = (4, 16, 32)
RESAMPLES = 2_000
FILE, CANDIDATES = "measures.npz", "candidates.npz"
# What the report calls them; `best` and `vote` are means over the sizes, as the paper's last column is.
BEST, VOTE, AUROC, FIRST_ERROR = "best", "vote", "auroc", "first_error"


@dataclass(frozen=True)
class Measure:
    """A figure of S seeds: [S] values, and [S, B] those of B resamples of the problems."""

    values: NDArray[np.float64]
    resampled: NDArray[np.float64]

    def __sub__(self, other: Measure) -> Measure:
        """The paired difference: of the same seed (one seed goes with all), on the same resamples."""
        return Measure(self.values - other.values, self.resampled - other.resampled)

    def interval(self, seed: int = 0) -> Interval:
        """Mean over seeds, and the 95 % percentile interval over drawn seeds and problems."""
        seeds, resamples = self.resampled.shape
        drawn = np.concatenate(list(resampled_counts(seeds, resamples, seed + 1, resamples))) / seeds
        return percentile_interval(float(self.values.mean()), [(drawn * self.resampled.T).sum(1)])


def mean(measures: Sequence[Measure]) -> Measure:
    """Of several figures of the same cell."""
    return Measure(
        np.mean([one.values for one in measures], axis=0), np.mean([one.resampled for one in measures], axis=0)
    )


def measure_candidates(config: BestOfNConfig) -> None:
    """What every cell shares, kept beside the candidates: which are right, and which answers are equal."""
    groups, _ = prepare(config, print)
    _, found = grade(groups, config)
    stacked = {name: np.stack([getattr(one, name) for one in found]) for name in ("correct", "classes", "valid")}
    with atomic_write(Path(str(config.candidates)).parent / CANDIDATES) as stream:
        np.savez(stream, **stacked)


def score(config: BestOfNConfig) -> None:
    """Score, and nothing else: the reference's log-probabilities are then in the cache."""
    groups, scorer = prepare(config, print)
    scorer.score_all(groups, Path(config.folder))


def measure(config: BestOfNConfig) -> None:
    """Score the candidates as `ipr-eval` does, and keep each figure with its resamples in `measures.npz`.

    `measure_candidates` has left its file beside the candidates.
    """
    config = replace(config, vote_draws=200)
    folder = Path(config.folder)
    groups, scorer = prepare(config, print)
    scores = scorer.score_all(groups, folder)
    with np.load(Path(str(config.candidates)).parent / CANDIDATES) as kept:
        candidates = [Candidates(*rows) for rows in zip(kept["correct"], kept["classes"], kept["valid"], strict=True)]
    sizes = [n for n in SIZES if n <= len(groups[0])]
    counts = np.concatenate(list(resampled_counts(len(groups), RESAMPLES, 0, len(groups))))
    found: dict[str, NDArray[np.float64]] = {}
    for name, curve in accuracy_curves(config, candidates, scores, sizes).items():
        for column, n in enumerate(sizes):
            by_problem = curve[:, column]
            found[f"{name}/{n}"] = np.append(by_problem.mean(), counts @ by_problem / len(groups))
    if scorer.by_step:
        errors = step_errors(groups, scores)
        if sum(errors.faulty):
            value, resampled = auroc_resamples(errors.right, errors.wrong, RESAMPLES)
            found[AUROC] = np.append(value, resampled)
            hits, faulty = np.array(errors.found), np.array(errors.faulty)
            found[FIRST_ERROR] = np.append(hits.sum() / faulty.sum(), counts @ hits / (counts @ faulty))
    with atomic_write(folder / FILE) as stream:
        np.savez(stream, **found)


def read(folders: Sequence[Path]) -> Mapping[str, Measure]:
    """The figures of a cell, a folder for each seed: `best/16`, `vote/16`, `auroc`, ..., and means over N as `best`."""
    by_seed = []
    for folder in folders:
        with np.load(folder / FILE) as kept:
            by_seed.append({_short(name): kept[name] for name in kept.files})
    found = {}
    for name in by_seed[0]:
        rows = np.stack([one[name] for one in by_seed])
        found[name] = Measure(rows[:, 0], rows[:, 1:])
    for name in {name.split("/")[0] for name in found if "/" in name}:
        found[name] = mean([one for key, one in found.items() if key.startswith(f"{name}/")])
    return found


def _short(name: str) -> str:
    """The names of `accuracy_curves`, in a word."""
    curve, _, size = name.partition("/")
    known = {
        "PRM, sum (as an ORM)": "sum",
        "weighted vote": VOTE,
        MAJORITY: "majority",
        ORACLE: "oracle",
        "random pick": "random",
    }
    curve = known.get(curve, BEST if curve.startswith("PRM, ") else curve)
    return f"{curve}/{size}" if size else curve
