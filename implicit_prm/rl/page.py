"""report.html of a run of reinforcement learning: its curves. Imported only where it is written: matplotlib is slow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from implicit_prm.evaluation.figures import embedded, new_figure
from implicit_prm.evaluation.html.render import write_page

TRAIN, DEV = "rewards/correct/mean", "eval_rewards/correct/mean"
# Title, text, and the logged names of each figure, with the label of each line.
_FIGURES: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "Accuracy",
        "The share of correct responses: of the batches, and of the dev problems.",
        {TRAIN: "training", DEV: "dev"},
    ),
    (
        "The PRM on fresh responses",
        "Does it rank correct responses above wrong ones, and right steps above first wrong ones? 0.5 is chance.",
        {"prm/outcome_auroc": "outcome AUROC", "prm/step_auroc": "step AUROC"},
    ),
    (
        "Return of the process rewards",
        "If it rises while accuracy falls, the policy learns to please the PRM.",
        {"prm/return": "mean return"},
    ),
    (
        "Blame",
        "In incorrect responses with a wrong step, to prompts that also have correct ones: the share of the negative "
        "advantage that is on the first wrong step.",
        {"advantage/blame": "first wrong step"},
    ),
    ("Length", "Tokens of a response.", {"completions/mean_length": "mean length"}),
)
# The palette of Okabe and Ito, which colour-blind readers can distinguish; lines also differ in style.
_STYLES = [("#0072B2", "-"), ("#D55E00", "--")]


def write(
    path: Path, rows: Sequence[Mapping[str, Any]], options: Mapping[str, Any], name: str, responses_per_step: int
) -> None:
    """Write the page, atomically.

    Args:
        path: of the page.
        rows: the run's log.
        options: of the run, by name.
        name: of the run.
        responses_per_step: sampled for one optimiser step.
    """
    steps = max((row["step"] for row in rows), default=0)
    figures = []
    for title, text, names in _FIGURES:
        lines = {label: _line(rows, key, responses_per_step) for key, label in names.items()}
        lines = {label: line for label, line in lines.items() if line}
        if lines:
            figures.append((title, text, embedded(_figure(lines))))
    finals = {"final dev accuracy": _line(rows, DEV, 1), "accuracy of the last batch": _line(rows, TRAIN, 1)}
    write_page(
        path,
        "rl.html",
        name=name,
        steps=steps,
        rollouts=f"{steps * responses_per_step:,}",
        tiles={title: f"{line[-1][1] * 100:.1f} %" for title, line in finals.items() if line},
        figures=figures,
        options=options,
    )


def _line(rows: Sequence[Mapping[str, Any]], key: str, responses_per_step: int) -> list[tuple[int, float]]:
    """(responses so far, value) of every row of the log that has the value."""
    return [(row["step"] * responses_per_step, row[key]) for row in rows if row.get(key) is not None]


def _figure(lines: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    figure = new_figure(7.2, 3.2)
    axes = figure.subplots()
    for (label, line), (colour, style) in zip(lines.items(), _STYLES, strict=False):
        axes.plot(*zip(*line, strict=True), style, color=colour, label=label, marker="o", markersize=3)
    axes.set_xlabel("responses")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8.5, frameon=False)
    return figure
