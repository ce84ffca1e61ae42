"""The table that a run of `task=shift` prints."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from implicit_prm.evaluation.formatting import band, decimals, percent
from implicit_prm.evaluation.shift.pairs import OTHER_ANSWER, OTHER_STEPS, REFUSED, UNCHANGED

FILES = {"metrics": "metrics.json", "scores": "scores.parquet", "report": "report.html"}
_REASONS = {
    UNCHANGED: "nothing to rewrite",
    REFUSED: "the meaning might change",
    OTHER_ANSWER: "the grader reads another answer",
    OTHER_STEPS: "the step checker has other verdicts",
}


def print_metrics(metrics: dict[str, Any], console: Console | None = None) -> None:
    """A row for each rewrite that applies to some response, and the lines of `notes` below."""
    console = console or Console()
    table = Table("", "before", "after", "difference", "flips", "rank corr.", box=SIMPLE_HEAD, pad_edge=False)
    table.title = f"best-of-N accuracy (%) before and after a rewrite; {metrics['problems']} problems"
    for name, row in applied(metrics).items():
        accuracy = row["accuracy"]
        correlation = row["rank_correlation"]["value"]
        table.add_row(
            name,
            percent(accuracy["before"]),
            percent(accuracy["after"]),
            f"{percent(accuracy['difference'], '+')} {band(accuracy['difference'])}",
            percent(row["flips"]),
            "-" if correlation is None else f"{correlation:.3f}",
        )
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    console.print(table)
    for line in notes(metrics):
        console.print(line, highlight=False, markup=False)


def applied(metrics: dict[str, Any]) -> dict[str, Any]:
    """The rewrites that apply to at least two responses of some problem."""
    return {name: row for name, row in metrics["rewrites"].items() if row["problems"]}


def notes(metrics: dict[str, Any]) -> list[str]:
    """For each rewrite the change of the score and the within-problem AUROC; below, what was not rewritten."""
    lines = []
    for name, row in applied(metrics).items():
        auroc = row["auroc"]
        lines.append(
            f"{name}: score {_signed(row['change'])}, standard deviation within problems {row['deviation']:.3f}; "
            f"within-problem AUROC {decimals(auroc['before'])}, after {decimals(auroc['after'])}"
        )
    return [*lines, *not_rewritten(metrics)]


def not_rewritten(metrics: dict[str, Any]) -> list[str]:
    """How many responses were left alone and why; a line for all rewrites with the same reasons."""
    skipped: dict[str, list[str]] = {}
    for name, row in metrics["rewrites"].items():
        if row["skipped"]:
            reasons = ", ".join(f"{count} ({_REASONS[reason]})" for reason, count in row["skipped"].items())
            skipped.setdefault(reasons, []).append(name)
    return [f"responses not rewritten by {', '.join(names)}: {reasons}" for reasons, names in skipped.items()]


def _signed(interval: dict[str, float | None]) -> str:
    return "undefined" if interval["value"] is None else f"{interval['value']:+.3f}"
