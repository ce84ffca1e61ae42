"""The report's figures: curves over rollouts, with bands of 95 % intervals over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from implicit_prm.evaluation.figures import new_figure
from rllib.arms import ROLLOUTS_PER_STEP
from rllib.curves import Arm, Floats, mean_interval

# Okabe and Ito's palette for colour-blind readers, and grey; lines also differ in style.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888")
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (1, 1)), "-")
WINDOW = 5  # steps that a metric of single batches is averaged over

Lines = Sequence[tuple[str, Arm]]


def accuracy(lines: Lines) -> Figure:
    """Dev pass@1 of some arms."""
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    for number, (label, arm) in enumerate(lines):
        _band(axes, arm.rollouts, 100 * arm.accuracy, label, number)
    axes.set_ylabel("dev pass@1 (%)")
    _finish(figure, [axes])
    return figure


def along(lines: Lines, metrics: Mapping[str, str]) -> Figure:
    """Metrics of the training batches, a panel each.

    Args:
        lines: label and arm.
        metrics: logged name, and the label of its panel.
    """
    figure = new_figure(7.2, 3.8)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, (name, title) in zip(panels, metrics.items(), strict=True):
        for number, (label, arm) in enumerate(lines):
            logged = arm.logged(name)
            if logged is not None:
                averaged = _windows(logged)
                rollouts = (np.arange(averaged.shape[1]) * WINDOW + (WINDOW + 1) / 2) * ROLLOUTS_PER_STEP
                _band(axes, rollouts, averaged, label, number)
        axes.set_ylabel(title)
    _finish(figure, panels)
    return figure


def _windows(values: Floats) -> Floats:
    """[seeds, windows] means over steps, NaN left out."""
    count = values.shape[1] // WINDOW
    cut = values[:, : count * WINDOW].reshape(len(values), count, WINDOW)
    known = (~np.isnan(cut)).sum(2)
    return np.divide(np.nansum(cut, 2), known, out=np.full(cut.shape[:2], np.nan), where=known > 0)


def _band(axes: Axes, rollouts: Floats, values: Floats, label: str, number: int) -> None:
    """The mean over seeds [seeds, points] and its interval."""
    intervals = [mean_interval(column) for column in values.T]
    colour = _COLOURS[number % len(_COLOURS)]
    means, low, high = ([getattr(one, end) for one in intervals] for end in ("value", "low", "high"))
    axes.plot(rollouts, means, linestyle=_STYLES[number % len(_STYLES)], color=colour, label=label, linewidth=1.8)
    axes.fill_between(rollouts, low, high, color=colour, alpha=0.12, linewidth=0)


def _finish(figure: Figure, panels: Sequence[Axes]) -> None:
    for axes in panels:
        axes.set_xlabel("rollouts")
        axes.grid(alpha=0.25)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
