"""Are two answers equal? math-verify's `parse` and `verify`, guarded against what they misread.

Nothing here limits time: `worker` runs it in a process of its own.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import math_verify
from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
from sympy import Basic, Eq, Expr, FiniteSet, Float, Rational, Symbol, Union, nan, preorder_traversal, zoo
from sympy.core.relational import Relational

from implicit_prm.grading.latex import decimals_as_fractions, plain_text, resolve_bases, to_latex

_TIME = re.compile(r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))? ?(?:(?P<half>[ap])\.? ?m\.?|o'clock)?", re.IGNORECASE)
_LETTER = re.compile(r"(?:option |choice )?\(?([a-j])\)?", re.IGNORECASE)
_CHOICE = re.compile(r"(?:option |choice )?(?:\(([a-j])\)[:.]?|([a-j])[:.)]) ?\S.*", re.IGNORECASE | re.DOTALL)
# `to_latex` removes units. math-verify would remove all from the first \text to the last: 5 ft 3 in became 5.
_TIDY = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
_LATEX = math_verify.LatexExtractionConfig(boxed_match_priority=-1, normalization_config=_TIDY)
_NO_EQUATION = re.compile(r"[<>!:]=|,(?!\d{3}(?!\d))|;")


def compare(gold: str, answer: str) -> str:
    """Compare two normalised answers.

    Returns:
        "equal", "different", or "unparsable": math-verify reads neither of them, and as strings they differ.
    """
    texts = plain_text(gold), plain_text(answer)
    if same_time(*texts) or same_choice(*texts):
        return "equal"
    (gold, gold_percent), (answer, answer_percent) = to_latex(gold), to_latex(answer)
    gold, answer = resolve_bases(gold, answer)
    if gold == answer and gold_percent == answer_percent:
        return "equal"
    if equal(gold, answer):  # 10% is 10, as it is where the question asks for a percentage ...
        return "equal"
    if (gold_percent or answer_percent) and equal(  # ... and it is a tenth elsewhere
        rf"\frac{{{gold}}}{{100}}" if gold_percent else gold, rf"\frac{{{answer}}}{{100}}" if answer_percent else answer
    ):
        return "equal"
    return "different" if read(gold) or read(answer) else "unparsable"


def same_time(gold: str, answer: str) -> bool:
    """Is 2:00 pm the answer 2? Whether it is a.m. or p.m. counts where both say it."""
    times = [_TIME.fullmatch(text) for text in (gold, answer)]
    if None in times:
        return False
    halves = {(time["half"] or "").lower() for time in times if time} - {""}
    clocks = {(int(time["hour"]), time["minute"] or "00") for time in times if time}
    return len(clocks) == 1 and len(halves) < 2


def same_choice(gold: str, answer: str) -> bool:
    """Is one of them the letter of a choice, and the other the same letter with the choice's text?"""
    for letter, choice in ((gold, answer), (answer, gold)):
        if (only := _LETTER.fullmatch(letter)) and (named := _LETTER.fullmatch(choice) or _CHOICE.fullmatch(choice)):
            return only[1].lower() == next(filter(None, named.groups())).lower()
    return False


def equal(gold: str, answer: str) -> bool:
    """Does math-verify find two answers in TeX equal? Decimals are exact first, and then rounded as it does."""
    if _verify(read(decimals_as_fractions(gold)), read(decimals_as_fractions(answer))):
        return True
    return "." in gold + answer and _verify(read(gold), read(answer))


def read(answer: str) -> tuple[Any, ...]:
    """What an answer is to SymPy: all of it, or the right side of an equation whose left side cannot be parsed."""
    if whole := parse(answer):
        return whole
    _, equals, right = answer.rpartition("=")
    return parse(right) if equals and not _NO_EQUATION.search(answer) else ()


@lru_cache(maxsize=1024)
def parse(answer: str) -> tuple[Any, ...]:
    """The SymPy expression that math-verify reads the whole of an answer as; empty where it does not.

    Its other ways of reading are off: of text that is no TeX they take the last number, and so 12 for "x} + 12".
    """
    # math-verify's own time limit does not stop a long computation in C; the worker's does.
    found = math_verify.parse(f"${answer}$", [_LATEX], fallback_mode="no_fallback", parsing_timeout=None)
    # All divisions by zero are the same to SymPy, so 2:00 would be 3:00.
    return tuple(
        _positive_where_real(_as_set(expression))
        for expression in found
        if not (isinstance(expression, Basic) and expression.has(nan, zoo))
    )


def closing_value(text: str) -> str:
    """The last formula or number of a text, as math-verify finds it; "" if there is none."""
    modes = {"fallback_mode": "first_match", "extraction_mode": "first_match", "parsing_timeout": None}
    found = math_verify.parse(text, [_LATEX, math_verify.ExprExtractionConfig()], **modes)
    return found[-1].strip() if found and isinstance(found[-1], str) else ""


def about(answer: str) -> str:
    """The value of a normalised answer to three digits, at some point if it has variables; "" if it has none.

    Answers with different values are different, except for those that can be read in two ways, which have none.
    """
    latex, percent = to_latex(answer)
    found = read(latex)
    text = plain_text(answer)
    if percent or len(found) != 1 or "_" in latex or _TIME.fullmatch(text) or _CHOICE.fullmatch(text):
        return ""
    value = found[0].rhs if isinstance(found[0], Eq) else found[0]
    if not isinstance(value, Expr):
        return ""
    point = {symbol: Rational(sum(map(ord, symbol.name)) % 97 + 3, 7) for symbol in value.free_symbols}
    number = complex(value.subs(point).evalf(15))
    return f"{number.real:.2e}" if abs(number.imag) <= 1e-9 * abs(number) else f"{number:.2e}"


def _verify(gold: tuple[Any, ...], answer: tuple[Any, ...]) -> bool:
    """math-verify's comparison. Its tolerances are absolute: they must lie far below the smallest number."""
    if not gold or not answer:
        return False
    smallest, largest = _magnitudes([*gold, *answer])
    digits = {"float_rounding": 6 - smallest, "numeric_precision": 30 + largest - 2 * smallest}
    options = {**digits, "allow_set_relation_comp": True, "timeout_seconds": None}
    return bool(math_verify.verify(list(gold), list(answer), **options))


def _magnitudes(expressions: Iterable[Any]) -> tuple[int, int]:
    """The decimal exponents of the smallest (at most 0) and the largest number (at least 0) in the expressions."""
    exponents = [0]
    for part in (part for expression in expressions for part in preorder_traversal(expression)):
        if isinstance(part, Expr) and part.is_number:
            size = abs(part).evalf(2)
            if isinstance(size, Float) and size:
                exponents.append(int((size.num.exp + size.num.bc) * 0.30103))
    return min(exponents), max(exponents)


def _as_set(expression: Any) -> Any:
    """The union that "x < 2 or x > 3" means, which math-verify reads as a set of two inequalities."""
    if isinstance(expression, FiniteSet) and all(
        isinstance(part, Relational) and not isinstance(part, Eq) for part in expression.args
    ):
        with contextlib.suppress(Exception):
            return Union(*(part.as_set() for part in expression.args))
    return expression


def _positive_where_real(expression: Any) -> Any:
    """The expression with those variables positive that it needs so: as 1/sqrt(n), which is then sqrt(1/n)."""
    if isinstance(expression, Expr):
        for symbol in expression.free_symbols:
            with contextlib.suppress(Exception):
                if expression.has(symbol) and expression.subs(symbol, Rational(-3, 2)).is_real is False:
                    expression = expression.subs(symbol, Symbol(symbol.name, positive=True))
    return expression
