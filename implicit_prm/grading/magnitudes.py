r"""The numbers in an answer. Answers with clearly different numbers are different, which takes no algebra to see.

SymPy may simplify the difference of two surds for minutes to find that it is not zero. Their values differ at once.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache
from itertools import starmap
from typing import Any, NamedTuple

from sympy import (
    And,
    Derivative,
    E,
    Eq,
    Expr,
    FiniteSet,
    Float,
    Integral,
    Interval,
    Limit,
    MatrixBase,
    Product,
    Rational,
    Set,
    Sum,
    Symbol,
    Tuple,
)
from sympy.core.relational import Relational

from implicit_prm.grading.latex import exact_value, plain_text, to_latex
from implicit_prm.grading.reading import read

# Relative. math-verify rounds decimals, to a millionth of the smallest number at most: this is ten times as much.
TOLERANCE = 1e-4
LARGEST = 1e300  # larger numbers, and smaller than 1 / LARGEST, are no floats

TIME = re.compile(r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))? ?(?:(?P<half>[ap])\.? ?m\.?|o'clock)?", re.IGNORECASE)
LETTER = re.compile(r"(?:option |choice )?\(?([a-j])\)?", re.IGNORECASE)
CHOICE = re.compile(r"(?:option |choice )?(?:\(([a-j])\)[:.]?|([a-j])[:.)]) ?\S.*", re.IGNORECASE | re.DOTALL)
_UNEVALUATED = (Sum, Product, Integral, Limit, Derivative)


class Numbers(NamedTuple):
    """The numbers of an answer, at some point if it has variables.

    Attributes:
        values: one of a number; of a point, an interval, a set or a matrix those of its elements, infinite ones too.
        ordered: they can only equal others one by one.
    """

    values: tuple[complex, ...]
    ordered: bool = True

    @property
    def largest(self) -> float:
        """The largest absolute value that is finite; -1 if there is none."""
        return max((abs(value) for value in self.values if math.isfinite(abs(value))), default=-1.0)


def magnitude(answer: str) -> str:
    """The logarithm of an answer's largest number; "" if it has none, or can be read in two ways.

    Equal answers have magnitudes that differ by `TOLERANCE` at most, or one of them has none.
    """
    found = numbers(answer)
    return "" if found is None else repr(math.log(found.largest) if found.largest else -math.inf)


def apart(one: Numbers | None, other: Numbers | None) -> bool:
    """Are two answers different by their numbers alone?"""
    if one is None or other is None:
        return False
    if one.ordered and other.ordered:
        pairs = zip(one.values, other.values, strict=False)
        return len(one.values) != len(other.values) or not all(starmap(_close, pairs))
    return not _close(one.largest, other.largest)


@lru_cache(maxsize=4096)
def numbers(answer: str) -> Numbers | None:
    """The numbers of a normalised answer; None where they do not say whether answers are equal."""
    exact = exact_value(answer)
    if exact is not None:
        return _known([complex(exact)] if exact_float(exact) else None)
    latex, percent = to_latex(answer)
    text = plain_text(answer)
    if percent or "_" in latex or TIME.fullmatch(text) or CHOICE.fullmatch(text):
        return None  # 10% is 10 and 0.1, 101_2 is 101 and 5
    if LETTER.fullmatch(text) and len(text) > 1:
        return None
    found = read(latex)
    return _of(found[0]) if len(found) == 1 else None


def exact_float(value: Fraction) -> bool:
    """Does an exact number fit in a float, with margin?"""
    return not value or 1 / LARGEST < abs(value) < LARGEST


def _of(expression: Any) -> Numbers | None:
    if isinstance(expression, Eq):  # x = 5 may be compared with 5, and other equations are solved
        if not isinstance(expression.lhs, Symbol) or expression.rhs.free_symbols:
            return None
        expression = expression.rhs
    if isinstance(expression, Relational | And):
        if len(expression.free_symbols) != 1 or expression.has(Eq):
            return None
        expression = expression.as_set()
    if isinstance(expression, Interval):
        return _known(list(map(_value, (expression.start, expression.end))))
    if isinstance(expression, FiniteSet):
        parts = [_of(part) for part in expression.args]
        values = [value for part in parts if part is not None for value in part.values]
        known = _known(values if None not in parts else None)
        return known and known._replace(ordered=len(values) == len(parts) == 1)  # {5} may be compared with 5
    if isinstance(expression, Tuple | MatrixBase):
        elements = expression.flat() if isinstance(expression, MatrixBase) else expression.args
        return None if any(isinstance(part, Set | Tuple) for part in elements) else _known(list(map(_value, elements)))
    return _known([_value(expression)])


def _known(values: list[complex | None] | list[complex] | None) -> Numbers | None:
    found = Numbers(tuple(value for value in values or () if value is not None))
    return found if values and len(found.values) == len(values) and found.largest >= 0 else None


def _value(expression: Any) -> complex | None:
    """The value of an expression; None if that is not certain to a few digits."""
    if isinstance(expression, Eq):
        return None
    if not isinstance(expression, Expr) or expression.has(*_UNEVALUATED):
        return None
    point = {symbol: _coordinate(symbol) for symbol in expression.free_symbols}
    parts = expression.subs(point).evalf(15).as_real_imag()
    value = complex(*map(float, parts))
    certain = max(parts, key=abs)
    if value and isinstance(certain, Float) and certain._prec == 1:  # all digits cancelled: perhaps it is zero
        return None
    return value if not certain or 1 / LARGEST < abs(value) < LARGEST or certain.is_infinite else None


def _coordinate(symbol: Symbol) -> Any:
    """Where a variable is evaluated: the same for `abc` and for the product a * b * c, and for e and Euler's number."""
    value = Rational(1)
    for character in symbol.name.lower():
        value *= E if character == "e" else Rational(ord(character) % 97 + 3, 7)
    return value


def _close(one: complex, other: complex) -> bool:
    if not (math.isfinite(abs(one)) and math.isfinite(abs(other))):
        return one == other
    return abs(one - other) <= TOLERANCE * max(abs(one), abs(other))
