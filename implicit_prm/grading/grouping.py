"""Group equal answers with few comparisons: only answers whose largest numbers are about the same are compared."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

from implicit_prm.grading.latex import exact_value, plain_text

# Width of a bucket of log-magnitudes. Equal answers differ by half of it at most, so they are in neighbouring buckets.
_WIDTH = 2e-4


def group_answers(
    answers: Iterable[str],
    log_magnitude: Callable[[str], float | None],
    equal: Callable[[str, str], bool],
) -> dict[str, int]:
    """Group answers: each joins the first class whose first member it equals, or starts a class.

    Args:
        answers: distinct normalised answers.
        log_magnitude: the logarithm of an answer's largest number, None if that says nothing, or NaN for an answer
            that cannot be compared with any other. Equal answers have the same up to a relative 1e-4 of the number.
        equal: compares a class' first member with an answer.

    Returns:
        Answer -> number of its class, from 0 in order of appearance.
    """
    class_of: dict[str, int] = {}
    first_of_class: list[str] = []
    buckets: dict[int | None, list[int]] = defaultdict(list)  # bucket of the first member -> classes
    by_text: dict[str, list[int]] = defaultdict(list)
    for answer in answers:
        bucket, text = _bucket(log_magnitude(answer)), plain_text(answer)
        alike = set(by_text[text])
        if bucket is None:
            alike |= {number for name, numbers in buckets.items() if name != _ALONE for number in numbers}
        elif bucket != _ALONE:
            for near in (None, bucket - 1, bucket, bucket + 1):
                alike.update(buckets.get(near, ()))
        found = (k for k in sorted(alike) if _equal_numbers(first_of_class[k], answer, equal))
        number = class_of[answer] = next(found, len(first_of_class))
        if number == len(first_of_class):
            first_of_class.append(answer)
            buckets[bucket].append(number)
            by_text[text].append(number)
    return class_of


_ALONE, _ZERO = -(10**18), -(10**17)


def _bucket(log_magnitude: float | None) -> int | None:
    if log_magnitude is None:
        return None
    if math.isnan(log_magnitude):
        return _ALONE
    return _ZERO if math.isinf(log_magnitude) else math.floor(log_magnitude / _WIDTH)


def _equal_numbers(first: str, answer: str, equal: Callable[[str, str], bool]) -> bool:
    """`equal`, without a call for two whole numbers: there may be hundreds of about the same size."""
    if first.isdigit() and answer.isdigit():
        return exact_value(first) == exact_value(answer)
    return equal(first, answer)
