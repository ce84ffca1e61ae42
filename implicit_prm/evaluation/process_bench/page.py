"""report.html of a ProcessBench run: figure, tables, and the solutions that were judged wrongly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from implicit_prm.evaluation.figures import embedded
from implicit_prm.evaluation.html.render import write_page
from implicit_prm.evaluation.html.solutions import (
    FIRST_WRONG,
    PREDICTED,
    RIGHT,
    ShownProblem,
    ShownResponse,
    browser,
    common_scale,
    prompt_text,
    shown_steps,
)
from implicit_prm.evaluation.process_bench import thresholds as th
from implicit_prm.evaluation.process_bench.figures import trade_off_figure
from implicit_prm.evaluation.process_bench.report import notes
from implicit_prm.evaluation.process_bench.subset import Subset, Verdict
from implicit_prm.evaluation.scorer import kind_of
from implicit_prm.types import Group, StepScores
from implicit_prm.utils.colors import Scale


@dataclass(frozen=True)
class Misjudged:
    """A solution that was judged wrongly: `label` and `prediction` are indices of a step, -1 for none."""

    subset: str
    group: Group
    place: int
    score: StepScores
    values: list[float]
    label: int
    prediction: int
    threshold: float

    @property
    def kind(self) -> str:
        """The kind of mistake."""
        if self.label == -1:
            return "false alarm"
        if self.prediction == -1:
            return "missed"
        return "too early" if self.prediction < self.label else "too late"


def write(
    path: Path,
    metrics: dict[str, Any],
    curves: dict[str, tuple[np.ndarray, np.ndarray]],
    judged: Sequence[tuple[Subset, Verdict]],
    over: str,
) -> None:
    """Write report.html.

    Args:
        path: where to write it.
        metrics: contents of metrics.json.
        curves: as for `trade_off_figure`.
        judged: every subset with the verdict that is reported.
        over: the step values that were used: step, step_mean or prefix.
    """
    wrong = [solution for one, verdict in judged for solution in misjudged_solutions(one, verdict, over)]
    kind = kind_of([some for one, _ in judged for some in one.scores])
    scale = common_scale(kind, [values for one, _ in judged for values in one.values(over)])
    shown = browser(_shown(one, scale) for one in alternating(wrong))
    write_page(
        path,
        "process_bench.html",
        metrics=metrics,
        trade_off=embedded(trade_off_figure(metrics, curves)),
        notes={name: notes(row, metrics["values"]) for name, row in metrics["subsets"].items()},
        scale=scale,
        remark=f"{len(shown.problems)} of the {len(wrong)} wrongly judged solutions, alternating "
        f"between kinds and subsets. Not shown: {len(wrong) - len(shown.problems)}.",
        **vars(shown),
    )


def misjudged_solutions(one: Subset, verdict: Verdict, over: str) -> list[Misjudged]:
    """The scored solutions of a subset whose prediction is not the label."""
    assert verdict.used is not None
    found = []
    solutions = [
        (group, place, score)
        for group, some in zip(one.groups, one.scores, strict=True)
        for place, score in enumerate(some)
    ]
    rows = zip(solutions, one.values(over), one.labels.tolist(), verdict.used.tolist(), strict=True)
    for (group, place, score), values, label, threshold in rows:
        prediction = th.predict(values, threshold)
        if values and prediction != label:
            found.append(Misjudged(one.name, group, place, score, values, label, prediction, threshold))
    return found


def alternating(wrong: Sequence[Misjudged]) -> Iterator[Misjudged]:
    """The first of every subset and kind, the second of each, and so on: the files list erroneous solutions first."""
    queues: dict[tuple[str, str], list[Misjudged]] = {}
    for one in wrong:
        queues.setdefault((one.subset, one.kind), []).append(one)
    for some in zip_longest(*queues.values()):
        yield from (one for one in some if one is not None)


def _shown(one: Misjudged, scale: Scale) -> ShownProblem:
    marks: list[list[str]] = [[] for _ in one.values]
    for step in range(len(marks) if one.label == -1 else one.label):
        marks[step].append(RIGHT)
    for step, mark in ((one.label, FIRST_WRONG), (one.prediction, PREDICTED)):
        if step != -1:
            marks[step].append(mark)
    facts = [f"threshold {scale.number(one.threshold)}"]
    if one.label == -1:
        facts.append("no step is wrong")
    if one.prediction == -1:
        facts.append("none is predicted")
    steps, text = shown_steps(one.group, one.place, one.score, one.values, scale, marks)
    generator, identifier = (one.group.extra[name][one.place] for name in ("generators", "ids"))
    response = ShownResponse([generator], bool(one.group.correctness[one.place]), steps, text, facts)
    return ShownProblem(identifier, [one.kind, one.subset], prompt_text(one.group.prompt), [response])
