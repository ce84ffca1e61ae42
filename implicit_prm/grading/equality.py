"""Are two answers equal? math-verify's `verify`, guarded against what it takes for equal.

Nothing here limits time: `worker` runs it in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import math_verify
from sympy import Expr, Float, preorder_traversal

from implicit_prm.grading.latex import decimals_as_fractions, plain_text, resolve_bases, to_latex
from implicit_prm.grading.magnitudes import CHOICE, LETTER, TIME, apart, numbers
from implicit_prm.grading.reading import read


def compare(gold: str, answer: str) -> str:
    """Compare two normalised answers.

    Returns:
        "equal", "different", or "unparsable": math-verify reads neither of them, and as strings they differ.
    """
    texts, found = (plain_text(gold), plain_text(answer)), (gold, answer)
    if same_time(*texts) or same_choice(*texts):
        return "equal"
    (gold, gold_percent), (answer, answer_percent) = to_latex(gold), to_latex(answer)
    gold, answer = resolve_bases(gold, answer)
    if gold == answer and gold_percent == answer_percent:
        return "equal"
    if apart(*map(numbers, found)):
        return "different"
    if equal(gold, answer):  # 10% is 10, as it is where the question asks for a percentage ...
        return "equal"
    if (gold_percent or answer_percent) and equal(  # ... and it is a tenth elsewhere
        rf"\frac{{{gold}}}{{100}}" if gold_percent else gold, rf"\frac{{{answer}}}{{100}}" if answer_percent else answer
    ):
        return "equal"
    return "different" if read(gold) or read(answer) else "unparsable"


def same_time(gold: str, answer: str) -> bool:
    """Is 2:00 pm the answer 2? Whether it is a.m. or p.m. counts where both say it."""
    times = [TIME.fullmatch(text) for text in (gold, answer)]
    if None in times:
        return False
    halves = {(time["half"] or "").lower() for time in times if time} - {""}
    clocks = {(int(time["hour"]), time["minute"] or "00") for time in times if time}
    return len(clocks) == 1 and len(halves) < 2


def same_choice(gold: str, answer: str) -> bool:
    """Is one of them the letter of a choice, and the other the same letter with the choice's text?"""
    for letter, choice in ((gold, answer), (answer, gold)):
        if (only := LETTER.fullmatch(letter)) and (named := LETTER.fullmatch(choice) or CHOICE.fullmatch(choice)):
            return only[1].lower() == next(filter(None, named.groups())).lower()
    return False


def equal(gold: str, answer: str) -> bool:
    """Does math-verify find two answers in TeX equal? Decimals are exact first, and then rounded as it does."""
    if _verify(read(decimals_as_fractions(gold)), read(decimals_as_fractions(answer))):
        return True
    return "." in gold + answer and _verify(read(gold), read(answer))


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
