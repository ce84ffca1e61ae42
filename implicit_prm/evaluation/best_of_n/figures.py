"""The figures of a best-of-N run. Imported only where they are drawn: matplotlib is slow to load."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from implicit_prm.evaluation.figures import new_figure

# The palette of Okabe and Ito, which colour-blind readers can distinguish; lines also differ in style.
_STYLES = [
    ("#D55E00", "-"),
    ("#0072B2", "-"),
    ("#000000", "--"),
    ("#E69F00", "-."),
    ("#CC79A7", ":"),
    ("#999999", ":"),
    ("#009E73", "-."),
]


def accuracy_figure(metrics: dict[str, Any]) -> Figure:
    """Accuracy against N with 95 % bands, as a matplotlib figure."""
    figure = new_figure(7.2, 4.4)
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
    figure = new_figure(7.2, 4.4)
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
    figure = new_figure(7.2, 3.6)
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
