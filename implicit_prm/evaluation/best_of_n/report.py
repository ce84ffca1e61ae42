"""What a person reads: a table in the terminal and figures. The page that holds them all is made in `page/`."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from implicit_prm.utils.io import atomic_write

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


def percent(interval: Mapping[str, float | None], sign: str = "") -> str:
    """The figure of an interval in per cent, "-" where it is not defined; `sign` is "+" for a difference."""
    value = interval["value"]
    return "-" if value is None or math.isnan(value) else f"{value * 100:{sign}.1f}"


def band(interval: Mapping[str, float | None]) -> str:
    """The two ends of an interval in per cent, "-" where they are not defined."""
    low, high = interval["low"], interval["high"]
    if low is None or high is None or math.isnan(low):
        return "-"
    return f"[{low * 100:.1f}, {high * 100:.1f}]"


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


def reliability_figure(metrics: dict[str, Any]) -> Figure:
    """Share of right responses by score, and how many responses there are, as a matplotlib figure."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    bins = metrics["reliability"]["bins"]
    place, counts = np.arange(len(bins)), [one["responses"] for one in bins]
    value, low, high = (np.array([one["right"][key] for one in bins], float) * 100 for key in ("value", "low", "high"))
    errors = np.nan_to_num([value - low, high - value])
    upper.errorbar(place, value, errors, color=_STYLES[1][0], fmt="o-", linewidth=2, capsize=4)
    overall = metrics["accuracy"]["random pick"][str(metrics["sizes"][0])]["value"] * 100
    upper.axhline(overall, color=_STYLES[5][0], linestyle=":")
    upper.annotate("random pick", (1, overall), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    upper.set_ylim(-4, 104)
    upper.set_ylabel("right (%)")
    upper.set_title("bars are 95 % bootstrap intervals over problems", fontsize=10, loc="left")
    upper.grid(alpha=0.25)
    lower.bar(place, counts, width=0.9, color=_STYLES[5][0])
    lower.set_ylabel("responses")
    edges = [one["low"] for one in bins] + [one["high"] for one in bins[-1:]]
    lower.set_xticks(np.arange(len(edges)) - 0.5, [f"{edge:.3g}" for edge in edges], fontsize=8.5)
    lower.set_xlabel(f"score of the response ({metrics['aggregate']}), in bins of equally many")
    return figure


def lowest_step_figure(metrics: dict[str, Any]) -> Figure:
    """Where the lowest step of right and of wrong responses falls, as a matplotlib figure."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for offset, name, (colour, _), hatch in ((-0.2, "right", _STYLES[1], ""), (0.2, "wrong", _STYLES[0], "///")):
        one = metrics["lowest_step"][name]
        place = np.arange(len(one["positions"]))
        label = f"{name}: {one['responses']} responses"
        shares = np.array(one["positions"]) * 100
        axes.bar(place + offset, shares, 0.36, color=colour, hatch=hatch, edgecolor="white", label=label)
        even = np.array(one["even"]) * 100
        label = "if every step were lowest equally often" if name == "wrong" else ""  # once in the legend
        axes.hlines(even, place + offset - 0.2, place + offset + 0.2, color="black", linewidth=1.2, label=label)
    axes.set_xticks([0, 4.5, 9], ["first step", "half way", "last step"])
    axes.set_ylabel("share of responses (%)")
    axes.set_title("position of the lowest step in the response, in ten bins", fontsize=10, loc="left")
    axes.grid(alpha=0.25, axis="y")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def save_figure(metrics: dict[str, Any], path: Path) -> None:
    """`accuracy_figure` as a PNG file."""
    with atomic_write(path) as stream:
        stream.write(png(accuracy_figure(metrics)))
