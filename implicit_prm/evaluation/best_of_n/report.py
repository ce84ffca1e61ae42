"""The table that a best-of-N run prints."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from implicit_prm.evaluation.formatting import band, percent

FILES = {"metrics": "metrics.json", "scores": "scores.parquet", "figure": "accuracy.png", "report": "report.html"}


def print_metrics(metrics: dict[str, Any], console: Console | None = None) -> None:
    """Accuracy against N, the paired differences at the largest N, the other aggregates, and the step measures."""
    console = console or Console()
    sizes = [str(n) for n in metrics["sizes"]]
    largest = sizes[-1]
    table = Table("", *(f"N={n}" for n in sizes), "95 %", box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = f"accuracy (%) of the response selected from N; {metrics['problems']} problems"
    for name, row in metrics["accuracy"].items():
        table.add_row(name, *(percent(row[n]) for n in sizes), band(row[largest]))
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    console.print(table)
    for name, row in metrics["difference"].items():
        console.print(f"N={largest}: {name}: {percent(row[largest], '+')} {band(row[largest])}", highlight=False)
    others = ", ".join(f"{name} {row[largest]['value']:.3f}" for name, row in metrics["aggregates"].items())
    console.print(f"best-of-{largest} by aggregate: {others}", highlight=False)
    steps = metrics["steps"]
    if steps:
        auroc, found = steps["auroc"], steps["first_error_found"]
        console.print(
            f"step AUROC, first wrong against right: {auroc['value']:.3f} [{auroc['low']:.3f}, {auroc['high']:.3f}]\n"
            f"wrong responses whose lowest step is the first wrong one: {percent(found)} % {band(found)}",
            highlight=False,
        )
