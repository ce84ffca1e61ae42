"""What a person reads of a ProcessBench run: a table per subset, and the figure of the trade-off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from implicit_prm.evaluation.best_of_n.report import band, percent, png
from implicit_prm.utils.io import atomic_write

# Okabe and Ito's palette, told apart by the colour-blind; marks differ too.
_STYLES = [("#D55E00", "o"), ("#0072B2", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#000000", "X")]


def print_metrics(metrics: dict[str, Any], console: Console | None = None) -> None:
    """For each subset both accuracies and F1, which threshold was used, and the measures that need none."""
    console = console or Console()
    for name, row in metrics["subsets"].items():
        _print_subset(name, row, metrics["values"], console)
    if len(metrics["subsets"]) > 1:
        for name, interval in metrics["mean_f1"].items():
            if name.startswith("PRM"):
                console.print(
                    f"mean F1 of the {len(metrics['subsets'])} subsets, {name}: {percent(interval)} {band(interval)}",
                    highlight=False,
                )


def _print_subset(name: str, row: dict[str, Any], chosen: str, console: Console) -> None:
    head = f"ProcessBench {name}: accuracy (%) on {row['solutions']} solutions, {row['erroneous']} of them erroneous"
    console.print(head, style="italic", highlight=False)
    table = Table("", "erroneous", "correct", "F1", "95 %", box=SIMPLE_HEAD, pad_edge=False)
    for label, result in row["results"].items():
        sides = [percent(result[key]) for key in ("accuracy_erroneous", "accuracy_correct", "f1")]
        table.add_row(label, *sides, band(result["f1"]))
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    console.print(table)
    for line in notes(row, chosen):
        console.print(line, highlight=False)
    console.print()


def notes(row: dict[str, Any], chosen: str) -> list[str]:
    """What is said of a subset below its table: thresholds, differences, and the measures that need no threshold."""
    lines = []
    if row["results"][chosen]["f1"]["value"] is None:
        missing = "a wrong step" if row["erroneous"] == 0 else "none"
        lines.append(f"F1 is undefined: no solution with {missing}")
    for label, result in row["results"].items():
        if result["threshold"] is not None:
            lines.append(f"{label}: threshold {_threshold(result['threshold'])}")
    if row["unscored"]:
        lines.append(f"{row['unscored']} solutions are over the model's context and count as judged wrongly")
    for label, interval in row["f1_difference"].items():
        lines.append(f"F1: {label}: {percent(interval, '+')} {band(interval)}")
    if row["steps"]:
        auroc, found = row["steps"]["auroc"], row["steps"]["first_error_found"]
        lines.append(f"step AUROC, first wrong against right: {_plain(auroc)}")
        lines.append(f"the lowest step is the first wrong one: {percent(found)} % {band(found)}")
    hidden = row["by_final_answer"]["correct"]
    if hidden["erroneous"]:
        found = hidden["accuracy_erroneous"]
        lines.append(f"right answer, wrong step: {percent(found)} % {band(found)} of {hidden['erroneous']} found")
    return lines


def _plain(interval: dict[str, float | None]) -> str:
    if interval["value"] is None or interval["low"] is None:
        return "undefined"
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _threshold(found: dict[str, Any]) -> str:
    spread = "" if found["lowest"] == found["highest"] else f" ({found['lowest']:.3g} to {found['highest']:.3g})"
    if found["fitted_on"] is None:
        where = "given"
    else:
        where = f"{'cross-fitted' if 'folds' in found else 'fitted'} on {found['fitted_on']}"
    left_out = found.get("left_out_problems")
    without = f" without {left_out} problems that are in both" if left_out else ""
    return f"{found['value']:.3g}{spread}, {where}{without}"


def trade_off_figure(metrics: dict[str, Any], curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Accuracy on erroneous against accuracy on correct solutions as the threshold moves, the chosen point marked.

    Args:
        curves: for each subset both accuracies at every distinct threshold, on erroneous solutions first.
    """
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")  # no pyplot: no window and no global state
    axes = figure.subplots()
    grid = np.linspace(0.1, 100, 400)
    for level in (20, 40, 60, 80):  # lines of equal F1: y = F1 x / (2 x - F1)
        x = grid[2 * grid > level * 1.001]
        y = level * x / (2 * x - level)
        axes.plot(x[y <= 100], y[y <= 100], color="#bbbbbb", linewidth=0.8, zorder=0)
        axes.annotate(f"F1 {level}", (99.5, y[-1] + 0.5), color="#888888", fontsize=8, ha="right", va="bottom")
    for place, (name, row) in enumerate(metrics["subsets"].items()):
        colour, mark = _STYLES[place % len(_STYLES)]
        erroneous, correct = curves[name]
        axes.plot(correct * 100, erroneous * 100, color=colour, linewidth=1.6)
        chosen = row["results"][metrics["values"]]
        x, y = (chosen[key]["value"] for key in ("accuracy_correct", "accuracy_erroneous"))
        f1 = percent(chosen["f1"])
        if x is not None and y is not None:
            axes.plot(
                x * 100, y * 100, mark, color=colour, markersize=9, markeredgecolor="black", label=f"{name}: F1 {f1}"
            )
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 101)
    axes.set_xlabel("accuracy on correct solutions (%)")
    axes.set_ylabel("accuracy on erroneous solutions (%)")
    axes.set_title(f"{metrics['values']}: every threshold (lines), the one used (marks)", fontsize=10, loc="left")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    return figure


def save_figure(metrics: dict[str, Any], curves: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """`trade_off_figure` as a PNG file."""
    with atomic_write(path) as stream:
        stream.write(png(trade_off_figure(metrics, curves)))
