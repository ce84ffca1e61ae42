r"""Answers as math-verify can read them: Unicode, percentages, repeating decimals and units in the TeX that it knows.

math-verify reads from what it does not know only a part (of `5²` the 5, of `0.\overline{3}` the 0) or nothing.
"""

from __future__ import annotations

import re
from fractions import Fraction

from implicit_prm.grading.prose import NUMBER_WORDS

_SYMBOLS = {
    "√": r"\sqrt ", "π": r"\pi ", "∞": r"\infty ", "×": r"\times ", "·": r"\cdot ", "÷": "/", "−": "-", "–": "-",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "°": r"^\circ ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "φ": r"\phi ",
    "∅": r"\emptyset ", "€": "", "£": "", "\u00a0": " ", "\u202f": " ", "，": ",",
}  # fmt: skip
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ", "0123456789-n", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_TO_TEX = str.maketrans(_SYMBOLS)
_RAISED_RUN, _LOWERED_RUN = re.compile(f"[{''.join(_RAISED)}]+"), re.compile(f"[{''.join(_LOWERED)}]+")

_ROOT = re.compile(r"(?:√|\bsqrt) ?(?:(\d+|[a-zA-Z])|\(([^()]*)\))")
_PERCENT = re.compile(r" ?(?:(?<!\\)%|\\%|\b(?:percent|per cent)\b)")
# In an equation math-verify takes the commas of 1,000 for a list's, and of a list of equations it makes a set.
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_WORKING = re.compile(r"(?:[^;=a-zA-Z]+=[^;=a-zA-Z]+;)+(?=[^;=a-zA-Z]+=)")  # 5 * 3 = 15; 15 + 1 = 16
_SPACED_THOUSANDS = re.compile(r"-?\d{1,3}(?: \d{3})+")
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\(?:overline|bar|dot)(?:\{(\d+)\}|(\d))(?!\d)")
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SCALED = re.compile(
    rf"(-?\\?\$?)(\d[\d,]*(?:\.\d+)?) ?(?:\\(?:text|mathrm|mbox)\{{ ?)?({'|'.join(_SCALES)})\b ?([a-zA-Z ]*)\}}?"
)
_LAST_TEXT = re.compile(r"(?<=[\w)}!]) ?\\(?:text|mbox|mathrm|textrm|rm)\{([^{}\\]*)\}(?:\^\{?[23]\}?)?$")
_ORDINAL = re.compile(
    r"(?<=\d)\^?\{?(?:\\(?:text|mathrm|textsuperscript)\{(?:st|nd|rd|th)\b[^{}]*\}|(?:st|nd|rd|th)(?![a-zA-Z]))\}?"
)
_RESIDUE = re.compile(r"(?:.*\\equiv)?(.*?)\\p?mod ?(?:\{[^{}]*\}|\d)$", re.DOTALL)
# Words behind a number are its unit, unless they belong to the mathematics.
_WORDS = re.compile(
    r"((?:^|[^a-zA-Z\\])\d|\}) ?(?<![a-zA-Z])"
    r"((?:[a-zA-Z]{3,}|[ckm]m|[km]g|ft|lb|oz|hr|mi|ml)(?:[ /][a-zA-Z]{2,})*)(?:\^\{?[23]\}?)?$"
)
_NO_UNITS = re.compile(
    r"\b(?:and|or|to|if|over|plus|minus|times|mod|squared|cubed|factorial|percent|per cent|half|halves|thirds?|"
    r"quarters?|(?:four|fif|six|seven|eigh|nin|ten)ths?|sin|cos|tan|log|exp|sqrt|a\.?m|p\.?m|bc|ad)\b",
    re.IGNORECASE,
)


def readable(answer: str) -> tuple[str, bool]:
    """A normalised answer in TeX without its unit, and whether it is a percentage (whose sign is left out too)."""
    answer = _RAISED_RUN.sub(lambda run: "^{" + "".join(_RAISED[c] for c in run[0]) + "}", answer)
    answer = _LOWERED_RUN.sub(lambda run: "_{" + "".join(_LOWERED[c] for c in run[0]) + "}", answer)
    answer = _ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2]}}}", answer).translate(_TO_TEX).strip()
    if _SPACED_THOUSANDS.fullmatch(answer):
        answer = answer.replace(" ", "")
    if "=" in answer:
        answer = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), _WORKING.sub("", answer))
    if residue := _RESIDUE.fullmatch(answer):
        answer = residue[1].strip()
    if answer.lower() in NUMBER_WORDS:
        answer = str(NUMBER_WORDS.index(answer.lower()))
    answer = _ORDINAL.sub("", answer)
    answer = _REPEATING.sub(_as_fraction, answer)
    answer = _SCALED.sub(lambda m: rf"{m[1]}{m[2]} \times {_SCALES[m[3]]}", answer)
    for unit in (_LAST_TEXT.search(answer), _WORDS.search(answer)):
        if unit and not _NO_UNITS.search(unit[unit.re.groups]):
            answer = answer[: unit.start() + len(unit[1]) if unit.re is _WORDS else unit.start()].rstrip()
            break
    number = _PERCENT.sub("", answer)
    percent = number != answer and bool(_PERCENT.search(answer[-10:]))
    return (number if percent else answer), percent


def _as_fraction(decimal: re.Match[str]) -> str:
    whole, start, cycle = decimal[1] or "0", decimal[2], decimal[3] or decimal[4]
    scale = 10 ** len(start)
    value = Fraction(int(whole + start), scale) + Fraction(int(cycle), scale * (10 ** len(cycle) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
