"""The figure of a ProcessBench run. Imported only where it is drawn: matplotlib is slow to load."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from implicit_prm.evaluation.figures import new_figure
from implicit_prm.evaluation.formatting import percent

# The palette of Okabe and Ito, which colour-blind readers can distinguish; marks differ too.
_STYLES = [("#D55E00", "o"), ("#0072B2", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#000000", "X")]


def trade_off_figure(metrics: dict[str, Any], curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Accuracy on erroneous against accuracy on correct solutions for every threshold, with the chosen point marked.

    Args:
        curves: for each subset both accuracies at every distinct threshold, on erroneous solutions first.
    """
    figure = new_figure(6.4, 5.6)
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
