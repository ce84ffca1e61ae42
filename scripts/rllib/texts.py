"""Numbers of the report as text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from implicit_prm.evaluation.statistics import Interval
from rllib.curves import Floats, mean_interval


def times(one: Interval) -> str:
    """A ratio with its interval; `never` for an infinite one."""
    return _with_interval(one, lambda number: "never" if np.isinf(number) else f"{number:.2f}")


def percent(values: Floats) -> str:
    """The mean over seeds in per cent, with its interval."""
    return decimal(values, 100)


def points(values: Floats) -> str:
    """A mean difference over seeds in points, with its interval."""
    return interval_points(mean_interval(values))


def interval_points(one: Interval) -> str:
    return _with_interval(one, lambda number: f"{100 * number:+.1f}")


def signed(values: Floats) -> str:
    return _with_interval(mean_interval(values), lambda number: f"{number:+.3f}")


def decimal(values: Floats, scale: float = 1) -> str:
    places = 1 if scale == 100 else 3
    return _with_interval(mean_interval(values), lambda number: f"{scale * number:.{places}f}")


def _with_interval(one: Interval, text: Callable[[float], str]) -> str:
    """A value with its interval, if it has one; `-` for no value."""
    if np.isnan(one.value):
        return "-"
    return text(one.value) if np.isnan(one.low) else f"{text(one.value)} [{text(one.low)}, {text(one.high)}]"
