"""Ranges of numbers, and suggestions for unknown names."""

from types import SimpleNamespace

import pytest

from implicit_prm.config.validation import check_range, similar_option
from implicit_prm.types import ImplicitPRMError


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        (0, {"at_least": 1}),
        (0, {"above": 0}),
        (1, {"below": 1}),
        (1.5, {"above": 0, "at_most": 1}),
        (float("nan"), {"at_least": 0}),
        (float("nan"), {}),
        (float("inf"), {"above": 0}),
        (float("-inf"), {"at_most": 0}),
    ],
)
def test_a_number_outside_the_range_is_named(value, bounds):
    with pytest.raises(ImplicitPRMError) as caught:
        check_range(SimpleNamespace(x=value), "x", where="group.", **bounds)
    assert str(caught.value).startswith(f"group.x is {value};")
    for bound in bounds.values():
        assert f" {bound:g}" in str(caught.value)


def test_numbers_inside_the_range_and_none_are_valid():
    check_range(SimpleNamespace(x=1, y=None, z=0.5), "x", "y", "z", above=0, at_most=1)


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("lr", ["learning_rate", "seed"], "learning_rate"),
        ("LR", ["learning_rate", "seed"], "learning_rate"),
        ("responses", ["n", "temperature"], "n"),
        ("temprature", ["n", "temperature"], "temperature"),
        ("zzz", ["n", "temperature"], None),
    ],
)
def test_the_option_that_was_meant(name, known, expected):
    assert similar_option(name, known) == expected
