"""Scores of earlier evaluations of the same candidates, to compare with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from implicit_prm.evaluation.best_of_n.curves import ROWS, aggregated
from implicit_prm.evaluation.results import METRICS
from implicit_prm.scoring.store import read_scores
from implicit_prm.types import Group, ImplicitPRMError


def earlier_scores(
    against: Mapping[str, str], groups: Sequence[Group], fingerprint: str
) -> dict[str, list[np.ndarray]]:
    """The scores that earlier evaluations picked responses by.

    Args:
        against: name -> folder of an evaluation by best-of-N.
        groups: the candidates, graded.
        fingerprint: of these candidates.

    Returns:
        name -> of every problem, [K] scores, aggregated as in that evaluation.

    Raises:
        ImplicitPRMError: a folder without an evaluation, or with a damaged one or one of other candidates; names the
            option.
    """
    found = {}
    for name, folder in against.items():
        path = Path(folder) / METRICS
        where = f"against.{name}={folder}"
        if not path.is_file():
            raise ImplicitPRMError(f"{where}: no {METRICS}; expected the output_dir of ipr-eval task=best_of_n")
        if name in ROWS:
            raise ImplicitPRMError(f"{where}: a row of this name is there already; choose another name")
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            theirs, options = metrics.get("candidates_fingerprint"), metrics["config"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ImplicitPRMError(f"{where}: {METRICS} is damaged; run that evaluation again") from None
        if theirs != fingerprint:
            raise ImplicitPRMError(
                f"{where}: the fingerprint of its candidates and their labels is {theirs}, expected {fingerprint}; "
                "evaluate it on these candidates, with the same options of grading"
            )
        found[name] = aggregated(read_scores(Path(folder), groups), options["aggregate"], options["over"])
    return found
