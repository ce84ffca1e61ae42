"""The measures of a cell: one value per seed, and its values on resamples of the problems.

The resamples are the same for all cells, so that differences are paired. An interval resamples both problems and
training seeds, independently (a crossed bootstrap): each draw is the mean over the drawn seeds of the measure on the
drawn problems. With one seed, only problems are resampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from implicit_prm.config import BestOfNConfig
from implicit_prm.evaluation.best_of_n.candidates import grade
from implicit_prm.evaluation.best_of_n.curves import MAJORITY, ORACLE, accuracy_curves, rankings
from implicit_prm.evaluation.best_of_n.run import prepare
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.statistics import Interval, auroc_resamples, percentile_interval, resampled_counts
from implicit_prm.evaluation.step_errors import step_errors
from implicit_prm.utils.io import atomic_write

SIZES = (4, 16, 32)
RESAMPLES = 2_000
FILE, CANDIDATES = "measures.npz", "candidates.npz"
# Names of measures. `best` and `vote` are means over N, like the last column of the paper's tables.
BEST, VOTE, AUROC, FIRST_ERROR = "best", "vote", "auroc", "first_error"


@dataclass(frozen=True)
class Measure:
    """A measure of a cell.

    Args:
        values: [seeds].
        resampled: [seeds, resamples], the values on resamples of the problems.
    """

    values: NDArray[np.float64]
    resampled: NDArray[np.float64]

    def __sub__(self, other: Measure) -> Measure:
        """The difference, paired by seed and resample. A measure of one seed is subtracted from all seeds."""
        return Measure(self.values - other.values, self.resampled - other.resampled)

    def interval(self, seed: int = 0) -> Interval:
        """The mean over seeds with its 95 % percentile interval over seeds and problems."""
        seeds, resamples = self.resampled.shape
        drawn = np.concatenate(list(resampled_counts(seeds, resamples, seed + 1, resamples))) / seeds
        return percentile_interval(float(self.values.mean()), [(drawn * self.resampled.T).sum(1)])


def mean(measures: Sequence[Measure]) -> Measure:
    """The mean of several measures of a cell."""
    return Measure(
        np.mean([one.values for one in measures], axis=0), np.mean([one.resampled for one in measures], axis=0)
    )


def measure_candidates(config: BestOfNConfig) -> None:
    """Grade the candidates once for all cells: which are correct and whose answers are equal, in `candidates.npz`."""
    groups, _ = prepare(config, print)
    _, found = grade(groups, config)
    stacked = {name: np.stack([getattr(one, name) for one in found]) for name in ("correct", "classes", "valid")}
    with atomic_write(Path(str(config.candidates)).parent / CANDIDATES) as stream:
        np.savez(stream, **stacked)


def score(config: BestOfNConfig) -> None:
    """Score only, to fill the cache of reference log-probabilities."""
    groups, scorer = prepare(config, print)
    scorer.score_all(groups, Path(config.folder))


def measure(config: BestOfNConfig) -> None:
    """Score the candidates as `ipr-eval` does, and write every measure with its resamples to `measures.npz`.

    Needs the file that `measure_candidates` writes.
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
    ranked_by = rankings(config, scores)
    for name, curve in accuracy_curves(config, candidates, scores, ranked_by, sizes).items():
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
    """The measures of a cell, from a folder per seed: `best/16`, `vote/16`, `auroc`, ..., and `best`, a mean over N."""
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
    """Shorten a name of `accuracy_curves`."""
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
