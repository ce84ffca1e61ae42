"""report.html of a run of `task=shift`: the table, and problems in which another response is picked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from implicit_prm.evaluation.html.render import write_page
from implicit_prm.evaluation.html.solutions import (
    ShownProblem,
    ShownResponse,
    browser,
    common_scale,
    prompt_text,
    shown_steps,
)
from implicit_prm.evaluation.scorer import kind_of
from implicit_prm.evaluation.shift.metrics import Rewritten
from implicit_prm.evaluation.shift.pairs import Pairs
from implicit_prm.evaluation.shift.report import applied, not_rewritten
from implicit_prm.types import Group, StepScores
from implicit_prm.utils.colors import Scale

_KINDS = {(True, False): "right, then wrong", (False, True): "wrong, then right"}


def write(
    path: Path,
    metrics: dict[str, Any],
    pairs: Pairs,
    scores: Sequence[Sequence[StepScores]],
    values: Sequence[np.ndarray],
    found: Mapping[str, Sequence[Rewritten]],
) -> None:
    """Write report.html.

    Args:
        path: where to write it.
        metrics: contents of metrics.json.
        pairs: the responses with their rewrites.
        scores: of every problem, one per response and rewrite.
        values: of every problem, the scores that responses are picked by.
        found: name of a rewrite -> of every problem, its rewritten responses.
    """
    scale = common_scale(kind_of(scores), [one.step_rewards for some in scores for one in some])
    flips = list(_flips(pairs, found))
    shown = browser(_shown(pairs.groups[n], scores[n], values[n], name, one, scale) for name, n, one in flips)
    write_page(
        path,
        "shift.html",
        metrics=metrics,
        rewrites=applied(metrics),
        notes=not_rewritten(metrics),
        scale=scale,
        remark=f"{len(shown.problems)} of the {len(flips)} cases in which a rewrite changes which response is picked: "
        "the response picked before with its rewrite, and the one picked after.",
        **vars(shown),
    )


def _flips(pairs: Pairs, found: Mapping[str, Sequence[Rewritten]]) -> Iterator[tuple[str, int, Rewritten]]:
    """(rewrite, problem, its responses) where another text is picked; those that change the outcome first."""
    cases = [
        (name, n, one)
        for name, some in found.items()
        for n, one in enumerate(some)
        if len(one.before) > 1 and len({pairs.groups[n].completions[one.places[choice]] for choice in one.choices}) > 1
    ]
    yield from sorted(cases, key=lambda case: _kind(case[2]) == "same outcome")


def _kind(one: Rewritten) -> str:
    before, after = (bool(one.correct[choice]) for choice in one.choices)
    return _KINDS.get((before, after), "same outcome")


def _shown(
    group: Group, scores: Sequence[StepScores], values: np.ndarray, name: str, one: Rewritten, scale: Scale
) -> ShownProblem:
    before, after = one.choices
    responses = []
    for role, place in (
        ("picked before", one.places[before]),
        ("its rewrite", one.numbers[before]),
        ("picked after, as it was", one.places[after]),
        ("picked after", one.numbers[after]),
    ):
        score = scores[place]
        steps, text = shown_steps(group, place, score, score.step_rewards, scale, [[] for _ in score.step_rewards])
        facts = [f"score {scale.number(values[place])}"]
        responses.append(ShownResponse([role], bool(group.correctness[place]), steps, text, facts))
    return ShownProblem(group.id, [name, _kind(one)], prompt_text(group.prompt), responses, group.answer)
