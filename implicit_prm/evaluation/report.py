"""What a person reads: a table in the terminal and the figure of accuracy against N."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from implicit_prm.data.files import atomic_write

# Okabe and Ito's palette, told apart by the colour-blind; lines differ in style too.
_STYLES = [
    ("#D55E00", "-"),
    ("#0072B2", "-"),
    ("#000000", "--"),
    ("#E69F00", "-."),
    ("#CC79A7", ":"),
    ("#999999", ":"),
    ("#009E73", "-."),
]


def print_metrics(metrics: dict[str, Any], console: Console | None = None) -> None:
    """Accuracy against N, the paired differences at the largest N, the other aggregates, and the step measures."""
    console = console or Console()
    sizes = [str(n) for n in metrics["sizes"]]
    largest = sizes[-1]
    table = Table("", *(f"N={n}" for n in sizes), "95 %", box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = f"accuracy (%) of the response selected from N; {metrics['problems']} problems"
    for name, row in metrics["accuracy"].items():
        table.add_row(name, *(f"{row[n]['value'] * 100:.1f}" for n in sizes), _band(row[largest]))
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    console.print(table)
    for name, row in metrics["difference"].items():
        console.print(f"N={largest}: {name}: {row[largest]['value'] * 100:+.1f} {_band(row[largest])}", highlight=False)
    others = ", ".join(f"{name} {row[largest]['value']:.3f}" for name, row in metrics["aggregates"].items())
    console.print(f"best-of-{largest} by aggregate: {others}", highlight=False)
    steps = metrics["steps"]
    if steps:
        auroc, found = steps["auroc"], steps["first_error_found"]
        console.print(
            f"step AUROC, first wrong against right: {auroc['value']:.3f} [{auroc['low']:.3f}, {auroc['high']:.3f}]\n"
            f"wrong responses whose lowest step is the first wrong one: {found['value'] * 100:.1f} % {_band(found)}",
            highlight=False,
        )


def _band(interval: dict[str, float]) -> str:
    return f"[{interval['low'] * 100:.1f}, {interval['high'] * 100:.1f}]"


def accuracy_figure(metrics: dict[str, Any]) -> Figure:
    """Accuracy against N with 95 % bands, as a matplotlib figure."""
    # No pyplot: no window and no global state.
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    sizes = metrics["sizes"]
    for (name, row), (colour, style) in zip(metrics["accuracy"].items(), _STYLES, strict=False):
        values, low, high = ([row[str(n)][key] * 100 for n in sizes] for key in ("value", "low", "high"))
        axes.plot(sizes, values, style, color=colour, label=name, linewidth=2, marker="o", markersize=3.5)
        axes.fill_between(sizes, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()
    axes.set_xlabel("N, responses to choose from")
    axes.set_ylabel("accuracy (%)")
    axes.set_title(f"{metrics['problems']} problems; bands are 95 % bootstrap intervals", fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    return figure


def save_figure(metrics: dict[str, Any], path: Path) -> None:
    """`accuracy_figure` as a PNG."""
    figure = accuracy_figure(metrics)
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=150)
