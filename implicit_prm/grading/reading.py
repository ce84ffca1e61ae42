"""What math-verify reads an answer as, guarded against what it misreads. Only the worker process imports this."""

from __future__ import annotations

import contextlib
import re
from functools import lru_cache
from typing import Any

import math_verify
from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
from sympy import Basic, Eq, Expr, FiniteSet, Rational, Symbol, Union, nan, zoo
from sympy.core.relational import Relational

# `to_latex` removes units. math-verify would remove all from the first \text to the last: 5 ft 3 in became 5.
_TIDY = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
_LATEX = math_verify.LatexExtractionConfig(boxed_match_priority=-1, normalization_config=_TIDY)
_NO_EQUATION = re.compile(r"[<>!:]=|,(?!\d{3}(?!\d))|;")
_PLAIN, _NEXT_LINE = re.compile(r"[\d\s.,+\-*/^()×÷]+"), re.compile(r"\n\s*(?:[-*+] )?")


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
    value = found[-1].strip() if found and isinstance(found[-1], str) else ""
    # To math-verify an expression of numbers goes on in the next line, so that "= 12\n12 * 2" holds 12 12 * 2.
    return _NEXT_LINE.split(value)[-1] if _PLAIN.fullmatch(value) else value


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
