"""How far scores and choices move when responses are rewritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from implicit_prm.evaluation.best_of_n.length import rank_correlation
from implicit_prm.evaluation.best_of_n.within_problem import problem_means
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.evaluation.statistics import auroc, clustered_ratios, finite


@dataclass(frozen=True)
class Rewritten:
    """The responses to one problem that were rewritten, R of them.

    Attributes:
        places: [R] of the responses in their group.
        numbers: [R] of the rewrites in their group.
        before: [R] scores of the responses.
        after: [R] scores of the rewrites.
        correct: [R] labels of the responses, and of their rewrites.
    """

    places: NDArray[np.int64]
    numbers: NDArray[np.int64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    correct: NDArray[np.bool_]

    @property
    def choices(self) -> tuple[int, int]:
        """Which of the R responses is picked before and which after; the first of equals."""
        return int(self.before.argmax()), int(self.after.argmax())


def of_problem(c: Candidates, scores: NDArray[np.float64], places: Mapping[int, int]) -> Rewritten:
    """The rewritten responses of a problem that have a score before and after.

    Args:
        c: the problem's candidates, without rewrites.
        scores: of the responses and of all their rewrites.
        places: the place of a response -> that of its rewrite.
    """
    scored = [(old, new) for old, new in places.items() if np.isfinite(scores[[old, new]]).all()]
    old, new = (np.array([pair[side] for pair in scored], dtype=np.int64) for side in (0, 1))
    return Rewritten(old, new, scores[old], scores[new], c.correct[old])


def shift_effects(
    some: Sequence[Rewritten], texts: Sequence[Sequence[str]], resamples: int, seed: int
) -> dict[str, Any]:
    """What a rewrite does to scores, ranking and choice, before and after on the same responses.

    Intervals are 95 % percentile bootstrap over problems. Problems with fewer than two rewritten responses have no
    ranking; they count for `change` only.

    Args:
        some: of every problem, its rewritten responses.
        texts: of every problem, its responses.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.

    Returns:
        `responses`, how many were rewritten; `problems`, how many have at least two of them; `rank_correlation`, within
        problems; `flips`, the share of problems in which another text is picked; `accuracy` of the picked response and
        within-problem `auroc`, each `before`, `after` and `difference`; `change`, the mean change of a score;
        `deviation`, the standard deviation of scores within problems, before.
    """
    columns = {name: [row[name] for row in map(_problem, some, texts)] for name in _COLUMNS}
    means = problem_means(columns, resamples, seed)
    sums = np.array([_sums(one) for one in some])
    change, variance = clustered_ratios(sums[:, :2], np.repeat(sums[:, 2:], 2, axis=1), resamples, seed)
    return {
        "responses": int(sums[:, 2].sum()),
        "problems": means["flips"]["problems"],
        **{name: means[name] for name in ("rank_correlation", "flips")},
        **{
            name: {side: means[f"{name}_{side}"] for side in ("before", "after", "difference")}
            for name in ("accuracy", "auroc")
        },
        "change": finite(change),
        "deviation": None if np.isnan(variance.value) else float(np.sqrt(variance.value)),
    }


_PAIRED = [f"{name}_{side}" for name in ("accuracy", "auroc") for side in ("before", "after", "difference")]
_COLUMNS = ["rank_correlation", "flips", *_PAIRED]


def _problem(one: Rewritten, texts: Sequence[str]) -> dict[str, float]:
    """The figures of one problem; NaN where it has none."""
    if len(one.before) < 2:
        return dict.fromkeys(_COLUMNS, float("nan"))
    before, after = one.choices
    found = {
        "rank_correlation": rank_correlation(one.before, one.after),
        "flips": float(texts[one.places[before]] != texts[one.places[after]]),
        "accuracy_before": float(one.correct[before]),
        "accuracy_after": float(one.correct[after]),
        "auroc_before": auroc(one.before[one.correct], one.before[~one.correct]),
        "auroc_after": auroc(one.after[one.correct], one.after[~one.correct]),
    }
    for name in ("accuracy", "auroc"):
        found[f"{name}_difference"] = found[f"{name}_after"] - found[f"{name}_before"]
    return found


def _sums(one: Rewritten) -> tuple[float, float, int]:
    """Over the responses: changes, squared distances from their mean before, and ones."""
    count = len(one.before)
    mean = one.before.sum() / max(count, 1)
    return float((one.after - one.before).sum()), float(((one.before - mean) ** 2).sum()), count
