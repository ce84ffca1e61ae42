"""What a run of PRMBench or Hard2Verify prints: a table with notes below."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from implicit_prm.evaluation.formatting import band, decimals, percent

FILES = {
    "metrics": "metrics.json",
    "scores": "scores.parquet",
    "predictions": "predictions.jsonl",
    "report": "report.html",
}


def print_metrics(metrics: dict[str, Any], console: Console | None = None) -> None:
    """The benchmark's figures for the score and for the baselines, and the lines of `notes` below."""
    console = console or Console()
    columns = next(iter(metrics["results"].values()))
    table = Table("", *columns, "95 %", box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = (
        f"{metrics['benchmark']} (%): {metrics['steps']} steps of {metrics['solutions']} solutions, "
        f"{metrics['wrong_steps']} of them wrong"
    )
    for name, row in metrics["results"].items():
        table.add_row(name, *(percent(one) for one in row.values()), band(next(iter(row.values()))))
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    console.print(table)
    for line in notes(metrics):
        console.print(line, highlight=False, markup=False)


def notes(metrics: dict[str, Any]) -> list[str]:
    """The threshold, differences to the baselines, classes, and the AUROC, which needs no threshold."""
    figure = next(iter(metrics["results"][metrics["values"]]))
    used = metrics["threshold"]
    lines = [
        f"threshold {used['value']:.3g}"
        + (f" ({used['lowest']:.3g} to {used['highest']:.3g}), cross-fitted" if used["cross_fitted"] else ", given")
    ]
    for name, interval in metrics["difference"].items():
        lines.append(f"{figure}: {metrics['values']} - {name}: {percent(interval, '+')} {band(interval)}")
    if len(metrics["classes"]) > 1:
        classes = ", ".join(f"{name} {percent(one)}" for name, one in metrics["classes"].items())
        lines.append(f"{figure} by class: {classes}")
    lines.append(f"AUROC of right against wrong steps: {decimals(metrics['step_auroc'])}")
    if metrics["unscored"]:
        lines.append(f"{metrics['unscored']} solutions are too long for the model; their steps count as judged wrongly")
    return lines
