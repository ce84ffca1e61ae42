r"""Answers in one form: `normalise` removes what has no meaning, `to_latex` writes the rest as math-verify reads it.

math-verify reads only a part of what it does not know: of `5²` the 5, of `0.\overline{3}` the 0, of `1 3/4` the 1.
"""

from __future__ import annotations

import re
from fractions import Fraction

NUMBER_WORDS = tuple("zero one two three four five six seven eight nine ten eleven twelve".split())  # noqa: SIM905

# What is left of TeX where JSON was decoded that had single backslashes in it: a backspace for the \b of \boxed.
_DAMAGED = re.compile(r"[\x08\x0c](?=[a-zA-Z])|\t(?=(?:ext|extbf|imes|heta|frac)(?![a-zA-Z]))|\r(?=ight(?![a-zA-Z]))")
_DAMAGE = {"\x08": r"\b", "\x0c": r"\f", "\t": r"\t", "\r": r"\r"}

_NORMAL_FORM = (
    (re.compile(r",\\!\s*"), ","),  # TeX's thousands: 11,\! 111
    (re.compile(r"\bUS(?=\\?\$)"), ""),
    (re.compile(r"(?<!\\)(?:\$|\\[()!,;:]|\\(?:left|right)(?![a-zA-Z])\.?)"), ""),
    (re.compile(r"\\[dt]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"(?<!\\)\\\s|~"), " "),
    (re.compile(r"\s+"), " "),
    (re.compile(r"(?<=[\d)])!="), "! ="),  # of a factorial; x!=6 is an inequality
    (re.compile(r"(?<!!) ?([][(){}+=^_/<>|-]) ?"), r"\1"),
    (re.compile(r" ?, ?(?!\d{3}(?!\d))"), ","),  # "1, 234" is two numbers, "1,234" is one
)
_TEXT = re.compile(r"\\(?:text|textrm|textbf|textit|mbox|mathrm|mathbf|mathit|operatorname|rm|bf)\{([^{}]*)\}")
_LETTERS = re.compile(r"[a-zA-Z]{2}")
_DECIMAL = re.compile(r"(-?)((?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?)(?<=\d)")
_FRACTION = re.compile(r"(-?)(?:(\d+)/(\d+)|\\frac\{?(-?\d+)\}?\{(\d+)\}|\\frac(\d)(\d))")

_SYMBOLS = {
    "√": r"\sqrt ", "π": r"\pi ", "∞": r"\infty ", "×": r"\times ", "·": r"\cdot ", "÷": "/", "−": "-", "–": "-",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "≈": r"\approx ", "⟨": "(", "⟩": ")", "°": r"^\circ ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ",
    "λ": r"\lambda ", "φ": r"\phi ", "∅": r"\emptyset ", "\u00a0": " ", "\u202f": " ", "，": ",",
}  # fmt: skip
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ", "0123456789-n", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_TO_TEX = str.maketrans(_SYMBOLS)
_RAISED_RUN, _LOWERED_RUN = re.compile(f"[{''.join(_RAISED)}]+"), re.compile(f"[{''.join(_LOWERED)}]+")
_ROOT = re.compile(r"(?:√|\bsqrt) ?(?:(\d+|[a-zA-Z])|\(([^()]*)\))")

_CURRENCIES = "USD|EUR|GBP|INR|JPY|CNY|CAD|AUD|Rs"
# Notations that math-verify misreads or does not read, in TeX that it does.
_NOTATION = (
    (re.compile(r"\\langle\b"), "("),
    (re.compile(r"\\rangle\b"), ")"),
    (re.compile(r"^<([^<>=]*,[^<>=]*)>$"), r"(\1)"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([-+]?\d+)(?![\w.])"), r"\1\\times 10^{\2}"),  # 1.2e-5
    (re.compile(r"(?<=\d) ?[xX*] ?(?=10\^)"), r"\\times "),  # 1.2 x 10^5
    (re.compile(r"\^([-+](?:\d+|[a-zA-Z](?![a-zA-Z])))"), r"^{\1}"),  # x^-2
    (re.compile(r"(?<![\d_^.,])(\d+(?:\.\d+)?)\("), r"\1\\cdot ("),  # 2(3); math-verify takes it for a mixed number
    (re.compile(r"\\(?:approx|simeq)(?![a-zA-Z])|≈"), "="),
    (re.compile(r"^(?:\\text\{[^{}]*(?:\b(?:is|are|about|approximately)|[=:]) ?\}|about |approximately )"), ""),
    (re.compile(r"^ ?="), ""),
    (re.compile(rf"^(-?) ?(?:\\text\{{)?(?:\\?[$€£¥₹₽₩₺₱₫฿¢]|(?:{_CURRENCIES})\b\.?)\}}? ?(?=-?[\d.])"), r"\1"),
    (re.compile(r"(?<=[\d}]) ?\^\{?\\(?:circ|degree)\}? ?(?:\\text\{ ?[CF]\}|\\mathrm\{[CF]\}|[CF])?$|\\degree\b"), ""),
)

_PERCENT = re.compile(r" ?(?:(?<!\\)%|\\%|\b(?:percent|per cent)\b)")
# In an equation math-verify takes the commas of 1,000 for a list's, and of a list of equations it makes a set.
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_WORKING = re.compile(r"(?:[^;=a-zA-Z]+=[^;=a-zA-Z]+;)+(?=[^;=a-zA-Z]+=)")  # 5 * 3 = 15; 15 + 1 = 16
_SPACED_THOUSANDS = re.compile(r"-?\d{1,3}(?: \d{3})+")
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\(?:overline|bar|dot)(?:\{(\d+)\}|(\d))(?!\d)")
_MIXED = re.compile(r"(?<![\w.^_{/])(\d+)(?: (\d+)/(\d+)| ?\\frac(?:\{(\d+)\}\{(\d+)\}|(\d)(\d)))(?![\d/!^])")
_NUMERAL = re.compile(r"(?<![\w.\\^{])(\d[\dA-Z]*)_(?:\{(\d+)\}|(\d))")
_POINT = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
_LETTERS_ONLY = re.compile(
    r"(^|[,;(\[]|\\\{)(?!inf|none)([a-zA-Z](?: ?[a-zA-Z]){2,}|[a-zA-Z]+\d[a-zA-Z\d]*)(?=$|[,;]|[)\]]$|\\\}$)"
)

_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SCALED = re.compile(
    rf"(-?\\?\$?)(\d[\d,]*(?:\.\d+)?) ?(?:\\(?:text|mathrm|mbox)\{{ ?)?({'|'.join(_SCALES)})\b ?([a-zA-Z ]*)\}}?"
)
_WRAPPED = r"\\(?:text|mbox|mathrm|textrm|rm)\{([^{}\\]*)\}(?:\^\{?[23]\}?)?"
_LAST_TEXT = re.compile(rf"(?<=[\w)}}!]) ?{_WRAPPED}$")
_TEXT_FRACTION = re.compile(rf"(?<=[\d}}]) ?\\frac\{{{_WRAPPED}\}}\{{{_WRAPPED}\}}$")
_ORDINAL = re.compile(
    r"(?<=\d)\^?\{?(?:\\(?:text|mathrm|textsuperscript)\{(?:st|nd|rd|th)\b[^{}]*\}|(?:st|nd|rd|th)(?![a-zA-Z]))\}?"
)
_RESIDUE = re.compile(r"(?:.*\\equiv)?(.*?)\\p?mod ?(?:\{[^{}]*\}|\d)$", re.DOTALL)
# Words after a number are its unit, unless they belong to the mathematics.
_WORDS = re.compile(
    r"((?:^|[^a-zA-Z\\])\d|\}) ?(?<![a-zA-Z])((?:[a-zA-Z]{3,}|[ckm]m|[km]g|ft|lb|oz|hr|mi|m[lL]|[kKMG][bB]|m(?=/s))"
    r"(?:/[a-zA-Z]+| [a-zA-Z]{2,})*)(?:\^\{?[23]\}?)?$"
)
_NO_UNITS = re.compile(
    r"\b(?:and|or|to|if|over|plus|minus|times|mod|squared|cubed|factorial|percent|per cent|half|halves|thirds?|"
    r"quarters?|(?:four|fif|six|seven|eigh|nin|ten)ths?|sin|cos|tan|log|exp|sqrt|a\.?m|p\.?m|bc|ad)\b",
    re.IGNORECASE,
)


def repair(text: str) -> str:
    r"""Restore TeX commands whose backslash a JSON decoder took for an escape: backspace + "oxed" is `\boxed`."""
    return _DAMAGED.sub(lambda damaged: _DAMAGE[damaged[0]], text)


def normalise(answer: str) -> str:
    r"""Remove what has no meaning: spacing, `\left`, `\dfrac` for `\frac`, dollar signs, a final full stop.

    Answers with equal normal forms are equal; about others this says nothing. Takes linear time.
    """
    answer = repair(answer)
    for pattern, replacement in _NORMAL_FORM:
        answer = pattern.sub(replacement, answer)
    return answer.strip().removesuffix(".").rstrip(" \\")


def plain_text(answer: str) -> str:
    r"""A normalised answer without `\text{}` and the like; in lower case if it has words."""
    text = _TEXT.sub(r"\1", answer).strip(" .")
    return text.lower() if _LETTERS.search(text) else text


def exact_value(answer: str) -> Fraction | None:
    """The value of a normalised answer that is an integer, a decimal or a fraction of integers; else None."""
    if number := _DECIMAL.fullmatch(answer):
        return Fraction(number[1] + number[2].replace(",", ""))
    if fraction := _FRACTION.fullmatch(answer):
        above, below = (int(digits) for digits in fraction.groups()[1:] if digits)
        return (-1 if fraction[1] else 1) * Fraction(above, below) if below else None
    return None


def to_latex(answer: str) -> tuple[str, bool]:
    """A normalised answer in TeX without its unit, and whether it is a percentage (whose sign is removed too)."""
    answer = _RAISED_RUN.sub(lambda run: "^{" + "".join(_RAISED[c] for c in run[0]) + "}", answer)
    answer = _LOWERED_RUN.sub(lambda run: "_{" + "".join(_LOWERED[c] for c in run[0]) + "}", answer)
    answer = _ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2]}}}", answer).translate(_TO_TEX).strip()
    for pattern, replacement in _NOTATION:
        answer = pattern.sub(replacement, answer)
    if _SPACED_THOUSANDS.fullmatch(answer):
        answer = answer.replace(" ", "")
    if "=" in answer:
        answer = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), _WORKING.sub("", answer))
    if residue := _RESIDUE.fullmatch(answer):
        answer = residue[1].strip()
    if answer.lower() in NUMBER_WORDS:
        answer = str(NUMBER_WORDS.index(answer.lower()))
    answer = _REPEATING.sub(_repeating_decimal, _ORDINAL.sub("", answer))
    answer = _SCALED.sub(lambda m: rf"{m[1]}{m[2]} \times {_SCALES[m[3]]}", answer)
    answer = _MIXED.sub(_mixed_number, _without_unit(answer))
    answer = _LETTERS_ONLY.sub(r"\1\\text{\2}", answer)  # ABCD and DCBA are no products
    number = _PERCENT.sub("", answer)
    percent = number != answer and bool(_PERCENT.search(answer[-10:]))
    return (number if percent else answer), percent


def resolve_bases(gold: str, answer: str) -> tuple[str, str]:
    """Replace 413_5 by its value where both answers have such numerals; where one has, drop its base."""
    both = _NUMERAL.search(gold) is not None and _NUMERAL.search(answer) is not None
    replace = _value_in_base if both else lambda numeral: numeral[1]
    return _NUMERAL.sub(replace, gold), _NUMERAL.sub(replace, answer)


def decimals_as_fractions(answer: str) -> str:
    """TeX with exact fractions for decimals, which math-verify would round."""
    return _POINT.sub(lambda m: rf"\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}}", answer)


def _without_unit(answer: str) -> str:
    for unit in (_TEXT_FRACTION.search(answer), _LAST_TEXT.search(answer), _WORDS.search(answer)):
        if unit and not _NO_UNITS.search(unit[unit.re.groups]):
            return answer[: unit.start() + len(unit[1]) if unit.re is _WORDS else unit.start()].rstrip()
    return answer


def _mixed_number(number: re.Match[str]) -> str:
    whole, above, below = (int(digits) for digits in number.groups() if digits)
    return rf"\frac{{{whole * below + above}}}{{{below}}}"


def _value_in_base(numeral: re.Match[str]) -> str:
    try:
        return str(int(numeral[1], int(numeral[2] or numeral[3])))
    except ValueError:
        return numeral[0]


def _repeating_decimal(decimal: re.Match[str]) -> str:
    whole, start, cycle = decimal[1] or "0", decimal[2], decimal[3] or decimal[4]
    scale = 10 ** len(start)
    value = Fraction(int(whole + start), scale) + Fraction(int(cycle), scale * (10 ** len(cycle) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
