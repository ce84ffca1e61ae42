"""How intervals are written in tables and pages."""

from __future__ import annotations

import math
from collections.abc import Mapping


def percent(interval: Mapping[str, float | None], sign: str = "") -> str:
    """An interval's value in per cent, "-" where it is not defined; `sign` is "+" for a difference."""
    value = interval["value"]
    return "-" if value is None or math.isnan(value) else f"{value * 100:{sign}.1f}"


def band(interval: Mapping[str, float | None]) -> str:
    """The two ends of an interval in per cent, "-" where they are not defined."""
    low, high = interval["low"], interval["high"]
    if low is None or high is None or math.isnan(low):
        return "-"
    return f"[{low * 100:.1f}, {high * 100:.1f}]"


def decimals(interval: Mapping[str, float | None]) -> str:
    """An interval as `0.712 [0.650, 0.771]`, "undefined" where it is not defined."""
    value, low, high = interval["value"], interval["low"], interval["high"]
    if value is None or low is None or high is None or math.isnan(low):
        return "undefined"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
