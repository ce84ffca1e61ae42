"""Step rewards as colours, the same scale in notebooks and reports: blue above neutral, orange below.

Colour-blind readers can tell blue from orange, and colour is never the only sign: a step shows its number, a token
shows it on hover and is underlined if negative. All text is escaped, and the HTML fetches nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_WHITE, _BLUE, _ORANGE = (255, 255, 255), (138, 195, 240), (250, 176, 100)  # light enough for dark text
_INK, _GREY = "#1b1f24", "#59636e"
_FONT = "font:13px/1.5 system-ui,sans-serif"
_NUMBER = "font-variant-numeric:tabular-nums;white-space:nowrap;text-align:right"


@dataclass(frozen=True)
class Scale:
    """White at `neutral`, full blue from `reach` above it on, full orange from `reach` below."""

    neutral: float
    reach: float

    @classmethod
    def of(cls, kind: str, values: Iterable[float], reach: float | None = None) -> Scale:
        """The scale of scores of a kind: 0.5 is neutral for probabilities, 0 for log-ratios.

        Args:
            kind: of the scores, log_ratio or probability.
            values: the scores that are shown; the largest magnitude gets the full colour.
            reach: overrides the reach that `values` give.
        """
        if kind == "probability":
            return cls(0.5, reach or 0.5)
        return cls(0.0, reach or max(map(abs, values), default=0.0) or 1.0)

    def strength(self, value: float) -> float:
        """From -1 (full orange) to 1 (full blue), symmetric around neutral."""
        return max(-1.0, min(1.0, (value - self.neutral) / self.reach))

    def colour(self, value: float) -> str:
        """The background colour as #rrggbb."""
        strength = self.strength(value)
        full = _BLUE if strength > 0 else _ORANGE
        mixed = (round(white + abs(strength) * (end - white)) for white, end in zip(_WHITE, full, strict=True))
        return "#{:02x}{:02x}{:02x}".format(*mixed)

    def number(self, value: float) -> str:
        """The value to three digits of the scale's reach, with a sign if neutral is 0."""
        digits = max(0, 2 - math.floor(math.log10(self.reach)))
        rounded = round(value, digits) + 0.0  # never -0.00
        return f"{rounded:+.{digits}f}" if self.neutral == 0 else f"{rounded:.{digits}f}"

    @property
    def ends(self) -> tuple[float, float, float]:
        """The values of full orange, white and full blue, for a legend."""
        return self.neutral - self.reach, self.neutral, self.neutral + self.reach


@dataclass(frozen=True)
class HeatStrip:
    """Parts of a response coloured by reward, displayed by notebooks.

    `texts` and `values` are aligned: steps, one per line, or with `running` the tokens of one text.
    """

    title: str
    texts: Sequence[str]
    values: Sequence[float]
    scale: Scale
    running: bool = False

    def _repr_html_(self) -> str:
        body = self._tokens() if self.running else self._steps()
        # Without these classes Jupyter would typeset mathematics; the raw characters should be shown.
        return (
            f'<div class="tex2jax_ignore mathjax_ignore" style="{_FONT};color:{_INK};background:#fff;padding:8px 10px;'
            f'max-width:60em"><div style="color:{_GREY}">{escape(self.title)}</div>{body}{self._legend()}</div>'
        )

    def _steps(self) -> str:
        if not self.values:
            return "<div>no step was scored</div>"
        lowest = min(range(len(self.values)), key=self.values.__getitem__)
        return "".join(
            f'<div style="display:flex;gap:8px;margin:2px 0"><span style="min-width:3.8em;{_NUMBER}">'
            f'{self.scale.number(value)}</span><span style="flex:1;background:{self.scale.colour(value)};padding:0 6px;'
            f'border-radius:3px;white-space:pre-wrap;overflow-wrap:anywhere">{escape(text.strip())}</span>'
            f'<span style="min-width:4.5em;color:{_GREY}">{"◂ lowest" if place == lowest else ""}</span></div>'
            for place, (text, value) in enumerate(zip(self.texts, self.values, strict=True))
        )

    def _tokens(self) -> str:
        spans = (
            f'<span title="{self.scale.number(value)}" style="background:{self.scale.colour(value)}'
            f'{";text-decoration:underline" if value < self.scale.neutral else ""}">'
            f"{escape(text).replace(chr(10), '↵' + chr(10)) or '·'}</span>"
            for text, value in zip(self.texts, self.values, strict=True)
        )
        return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere">{"".join(spans)}</div>'

    def _legend(self) -> str:
        ends = "".join(
            f'<span style="background:{self.scale.colour(end)};padding:0 6px;{_NUMBER}">{self.scale.number(end)}</span>'
            for end in self.scale.ends
        )
        return f'<div style="margin-top:4px;font-size:11px">{ends}</div>'
