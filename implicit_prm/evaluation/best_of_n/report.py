"""The table that a best-of-N run prints."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from implicit_prm.evaluation.formatting import band, decimals, percent

FILES = {"metrics": "metrics.json", "scores": "scores.parquet", "figure": "accuracy.png", "report": "report.html"}


def print_metrics(metrics: dict[str, Any], console: Console | None = None) -> None:
    """Accuracy against N as a table, and the lines of `notes` below."""
    console = console or Console()
    sizes = [str(n) for n in metrics["sizes"]]
    table = Table("", *(f"N={n}" for n in sizes), "95 %", box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = f"accuracy (%) of the response selected from N; {metrics['problems']} problems"
    for name, row in metrics["accuracy"].items():
        table.add_row(name, *(percent(row[n]) for n in sizes), band(row[sizes[-1]]))
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    console.print(table)
    for line in notes(metrics):
        console.print(line, highlight=False, markup=False)


def notes(metrics: dict[str, Any]) -> list[str]:
    """Responses without a vote, paired differences at the largest N, other aggregates, AUROCs and diagnostics."""
    largest = str(metrics["sizes"][-1])
    lines = [unanswered(metrics)] if metrics["unanswered_responses"] else []
    for name, row in metrics["difference"].items():
        lines.append(f"N={largest}: {name}: {percent(row[largest], '+')} {band(row[largest])}")
    others = ", ".join(f"{name} {row[largest]['value']:.3f}" for name, row in metrics["aggregates"].items())
    lines.append(f"best-of-{largest} by aggregate: {others}")
    for name, auroc in metrics["within_problem_auroc"].items():
        lines.append(f"within-problem AUROC, {name}: {decimals(auroc)}, {auroc['problems']} problems")
        if "difference" in auroc:
            ours = next(iter(metrics["within_problem_auroc"]))
            lines.append(f"within-problem AUROC, {ours} - {name}: {decimals(auroc['difference'])}")
    lines += [*length_lines(metrics), *position_lines(metrics), *token_lines(metrics)]
    if metrics["steps"]:
        found = metrics["steps"]["first_error_found"]
        lines.append(f"step AUROC, first wrong against right: {decimals(metrics['steps']['auroc'])}")
        lines.append(f"wrong responses whose lowest step is the first wrong one: {percent(found)} % {band(found)}")
    return lines


def length_lines(metrics: dict[str, Any]) -> list[str]:
    """The correlation of the score with length, and best-of-N without it."""
    length = metrics["length"]
    name, first = next(iter(length["scores"].items()))
    pooled, within = decimals(first["pooled"]), decimals(first["within_problems"])
    adjusted, difference = length["adjusted"], length["adjusted_difference"]
    matched = length["matched"]
    return [
        f"rank correlation of {name} with length in {length['unit']}: {pooled}, within problems {within}",
        f"best-of-{metrics['sizes'][-1]} without the linear effect of length: {percent(adjusted)} {band(adjusted)}, "
        f"difference {percent(difference, '+')} {band(difference)}",
        f"best of {matched['responses']:.1f} responses of about the same length: {percent(matched['picked'])} "
        f"{band(matched['picked'])}, of as many of any length {percent(matched['any_length'])}, difference "
        f"{percent(matched['difference'], '+')} {band(matched['difference'])}, random {percent(matched['random'])}",
    ]


def position_lines(metrics: dict[str, Any]) -> list[str]:
    """How often the lowest step is the last one, and where in the response the reward is."""
    lines = []
    for name in ("right", "wrong"):
        row = metrics["lowest_step"].get(name)
        if row and row["responses"]:
            lines.append(
                f"{name} responses whose lowest step is the last one: {percent(row['last'])} % {band(row['last'])}, by "
                f"chance {row['last_by_chance'] * 100:.1f}"
            )
    last = metrics["last_step"]
    if last:
        lines.append(
            f"share of |step reward| on the last step: {percent(last)} % {band(last)}, {last['even'] * 100:.1f} if "
            "all steps had the same"
        )
    if metrics["token_rewards"]:
        tenths = ", ".join(f"{share * 100:.1f}" for share in metrics["token_rewards"]["tenths"]["magnitude"])
        lines.append(f"share of |reward| in % by tenth of the response: {tenths}")
    return lines


def token_lines(metrics: dict[str, Any]) -> list[str]:
    """The classes of tokens that carry the reward, and whether the candidates can be the reference's samples."""
    lines = []
    if metrics["token_rewards"]:
        classes = metrics["token_rewards"]["classes"].items()
        shares = [f"{name} {percent(row['magnitude'])} ({percent(row['tokens'])})" for name, row in classes]
        lines.append(f"share of |reward| in % (of tokens): {', '.join(shares)}")
    if metrics["reference_test"]:
        *steps, end = metrics["reference_test"]
        by_step = ", ".join(f"{row['step']}: {decimals(row['log_mean'])}" for row in steps)
        lines.append(f"log E[exp(q/beta)] at the end of each step, 0 for samples of the reference: {by_step}")
        lines.append(
            f"log E[exp(q/beta)] of whole responses, 0 for samples of the reference: {decimals(end['log_mean'])}, "
            f"{end['effective_responses']:.0f} of {end['responses']} responses effective"
        )
    return lines


def unanswered(metrics: dict[str, Any]) -> str:
    """How many responses have no vote, and how those among them that are labelled correct are counted."""
    line = f"{metrics['unanswered_responses']} of {metrics['responses']} responses have no answer and so no vote"
    correct = metrics["unanswered_correct_responses"]
    if correct:
        line += f"; {correct} of them are labelled correct, and every row but the votes counts them as correct"
    return line
