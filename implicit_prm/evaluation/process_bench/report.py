"""What a ProcessBench run prints: a table per subset with notes below."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from implicit_prm.evaluation.formatting import band, decimals, percent

FILES = {
    "metrics": "metrics.json",
    "scores": "SUBSET/scores.parquet",
    "predictions": "SUBSET/predictions.jsonl",
    "figure": "trade_off.png",
    "report": "report.html",
}


def print_metrics(metrics: dict[str, Any], console: Console | None = None) -> None:
    """For each subset both accuracies and F1, and the lines of `notes` below."""
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
        console.print(line, highlight=False, markup=False)
    console.print()


def notes(row: dict[str, Any], chosen: str) -> list[str]:
    """Lines below the table of a subset: thresholds, differences, and metrics that need no threshold."""
    lines = []
    if row["results"][chosen]["f1"]["value"] is None:
        missing = "a wrong step" if row["erroneous"] == 0 else "none"
        lines.append(f"F1 is undefined: no solution with {missing}")
    for label, result in row["results"].items():
        if result["threshold"] is not None:
            lines.append(f"{label}: threshold {_threshold(result['threshold'])}")
    if row["unscored"]:
        lines.append(f"{row['unscored']} solutions are too long for the model and count as judged wrongly")
    for label, interval in row["f1_difference"].items():
        lines.append(f"F1: {label}: {percent(interval, '+')} {band(interval)}")
    if row["steps"]:
        auroc, found = row["steps"]["auroc"], row["steps"]["first_error_found"]
        lines.append(f"step AUROC, first wrong against right: {decimals(auroc)}")
        lines.append(f"the lowest step is the first wrong one: {percent(found)} % {band(found)}")
    hidden = row["by_final_answer"]["correct"]
    if hidden["erroneous"]:
        found = hidden["accuracy_erroneous"]
        lines.append(f"right answer, wrong step: {percent(found)} % {band(found)} of {hidden['erroneous']} found")
    return lines


def _threshold(found: dict[str, Any]) -> str:
    spread = "" if found["lowest"] == found["highest"] else f" ({found['lowest']:.3g} to {found['highest']:.3g})"
    if found["fitted_on"] is None:
        where = "given"
    else:
        where = f"{'cross-fitted' if 'folds' in found else 'fitted'} on {found['fitted_on']}"
    left_out = found.get("left_out_problems")
    without = f" without {left_out} problems that are in both" if left_out else ""
    return f"{found['value']:.3g}{spread}, {where}{without}"
