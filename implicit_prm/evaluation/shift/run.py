"""Rank stability: score responses and their rewrites, and compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from implicit_prm.config import ShiftConfig
from implicit_prm.evaluation.best_of_n.candidates import grade
from implicit_prm.evaluation.best_of_n.curves import aggregated
from implicit_prm.evaluation.best_of_n.run import prepare
from implicit_prm.evaluation.results import validated, write_results
from implicit_prm.evaluation.scorer import OpenScorer
from implicit_prm.evaluation.shift.metrics import of_problem, shift_effects
from implicit_prm.evaluation.shift.pairs import rewritten
from implicit_prm.types import Group, ImplicitPRMError
from implicit_prm.utils.distributed import is_first, spoken_once
from implicit_prm.utils.lock import locked
from implicit_prm.utils.secrets import without_secrets


def run_shift(config: ShiftConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """`ipr-eval task=shift`: open what the config names, and evaluate it; results go to `config.folder`.

    Returns:
        The metrics, as metrics.json holds them; see `shift_effects`.

    Raises:
        ImplicitPRMError: anything wrong with options, candidates or checkpoint.
    """
    config = validated(config)
    groups, scorer = prepare(config, spoken_once(say))
    with locked(config.folder, inside=True):
        return evaluate_rewrites(config, groups, scorer, Path(config.folder))


def evaluate_rewrites(
    config: ShiftConfig, groups: Sequence[Group], scorer: OpenScorer, folder: Path | None
) -> dict[str, Any]:
    """Grade the candidates, rewrite them, and compare the scores before and after, one rewrite at a time.

    A response and its rewrites are scored together, so that numbers differ by the text only.

    Args:
        config: which rewrites, how to aggregate and to resample.
        groups: candidates.
        scorer: what scores them; not a column.
        folder: for metrics.json, scores.parquet and report.html; None writes nothing.

    Returns:
        The metrics, as metrics.json holds them.

    Raises:
        ImplicitPRMError: no response can be rewritten, or what the scorer raises.
    """
    groups, candidates = grade(groups, config)
    pairs = rewritten(config, groups, candidates)
    if not any(places for some in pairs.places.values() for places in some):
        raise ImplicitPRMError(f"none of the rewrites ({', '.join(config.rewrites)}) applies to any response")
    scorer.check(pairs.groups, lengths=config.too_long == "error")
    scores = scorer.score_all(pairs.groups, folder)
    values = aggregated(scores, config.aggregate, config.over)
    texts = [group.completions for group in groups]
    found = {
        name: [of_problem(*one) for one in zip(candidates, values, places, strict=True)]
        for name, places in pairs.places.items()
    }
    metrics = {
        "scorer": scorer.name,
        "aggregate": f"{config.aggregate} over {config.over}",
        "problems": len(groups),
        "responses": sum(map(len, groups)),
        "rewrites": {
            name: {
                **shift_effects(some, texts, config.bootstrap_resamples, config.seed),
                "skipped": dict(pairs.skipped[name]),
            }
            for name, some in found.items()
        },
        "bootstrap": {"resamples": config.bootstrap_resamples, "over": "problems", "level": 0.95},
        "config": without_secrets(asdict(config)),
    }
    if folder is not None and is_first():
        from implicit_prm.evaluation.shift import page  # jinja2

        write_results(folder, metrics, {}, lambda path: page.write(path, metrics, pairs, scores, values, found))
    return metrics
