"""Each rewrite by hand: what it does, what it leaves alone, and what it refuses."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from implicit_prm.config import RewriteName
from implicit_prm.evaluation.shift.rewrites import REWRITES
from implicit_prm.sandbox import check_steps, problems
from tests.conftest import graded_rows

SAME = object()

CASES = {
    "rename_variables": [
        (
            "Let x be it. 2x + 3 = 7, so $x = 2$ or \\(x^2\\).",
            "Let y be it. 2y + 3 = 7, so $y = 2$ or \\(y^2\\).",
        ),
        ("Let $n_1$ and $u$ be in a box, and \\nu \\in N.", "Let $y_1$ and $x$ be in a box, and \\nu \\in N."),
        ("The price is 5.", SAME),
        ("3 x 4 = 12, and x = 2", None),  # a multiplication sign
        ("$xy = 6$ and $x = 2$", None),  # a product
        ("$\\int x^2 dx$", None),
        ("The line x = 6 is vertical.", None),  # the line y = 6 is not
        ("Its y-coordinate is 2.", None),
        ("```\nx = 3\n```\nso x is 3", None),
    ],
    "add_thousands_separators": [
        ("It costs $12000 and 1500 = 3 * 500.", "It costs $12,000 and 1,500 = 3 * 500."),
        ("In 1999 he had 12.3456, \\boxed{1000} and a_1000", SAME),
        ("(1,2) and 1000", None),  # a list without spaces
        ("In base 2 it is 1000", None),
    ],
    "remove_thousands_separators": [
        ("That is $1,234,567 or 1,000 + 1.", "That is $1234567 or 1000 + 1."),
        ("The set {1,200} and 1.5", SAME),
        ("(1,2) and 1,000", None),
    ],
    "add_decimals": [
        ("12 + 7 = 19\n19 * 3 = 7\n\\boxed{7}", "12.0 + 7.0 = 19.0\n19.0 * 3.0 = 7.0\n\\boxed{7}"),
        ("x = 5, y = 2.5, z = 3^2, w = 1/2, v = 5!", "x = 5.0, y = 2.5, z = 3^2, w = 1/2, v = 5!"),
        ("There are 5 apples.", SAME),
        ("x = 3 1/2 and y = 12 000", SAME),
        ("In base 2: 1 + 1 = 10", None),
    ],
    "add_step_headers": [
        ("1 + 1 = 2\n\\boxed{2}", "Step 1: 1 + 1 = 2\nStep 2: \\boxed{2}"),
        ("So\nit goes.\n\n  Thus.\n", "Step 1: So\nit goes.\n\n  Step 2: Thus.\n"),
        ("By step 2, it is 3.", None),
    ],
    "remove_step_headers": [
        ("Step 1: 1 + 1 = 2\nStep 2: \\boxed{2}", "1 + 1 = 2\n\\boxed{2}"),
        ("no headers", SAME),
        ("Step 1: 1 + 1 = 2\nFrom step 1, \\boxed{2}", None),
    ],
    "add_blank_lines": [
        ("a\nb\n\nc\n", "a\n\nb\n\nc\n"),
        ("a\n\\[\nx\n\\]\nb", "a\n\n\\[\nx\n\\]\n\nb"),
        ("a", SAME),
        ("| a |\n| b |", None),
    ],
    "remove_blank_lines": [
        ("a\n\nb\n \n\nc", "a\nb\nc"),
        ("a\nb", SAME),
        ("```\na\n\nb\n```", None),
    ],
    "swap_operands": [
        ("12 + 7 = 19\n19 * 3 = 7", "7 + 12 = 19\n3 * 19 = 7"),
        ("So x = 2 * 3.5 = 7 and (1 + 2 = 3).", "So x = 3.5 * 2 = 7 and (2 + 1 = 3)."),
        # Parts of longer sums, other signs, and dollars, which would change sides.
        ("5 - 3 + 2 = 4, 2 * 3 + 4 = 10, 6 / 2 = 3, $5 * 3 = $15", SAME),
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_a_rewrite_by_hand(name):
    for text, expected in CASES[name]:
        assert REWRITES[name]("A problem.", text) == (text if expected is SAME else expected), text


def test_every_rewrite_is_an_option_and_has_cases():
    assert list(REWRITES) == list(get_args(RewriteName))
    assert set(REWRITES) == set(CASES)


def test_variables_of_the_problem_keep_their_names():
    rename = REWRITES["rename_variables"]
    assert rename("Solve for x and y.", "x = 2, y = 3") == "x = 2, y = 3"
    assert rename("Solve for x and y.", "z = x + y") == "u = x + y"


@given(st.text(alphabet="xyn12,. \n$\\=+*|`SsTtep:", max_size=60), st.sampled_from(list(REWRITES)))
def test_any_text_is_rewritten_or_refused(text, name):
    new = REWRITES[name]("", text)
    assert new is None or isinstance(new, str)
    if new is not None and name.endswith("blank_lines"):
        assert new.split() == text.split()


@pytest.mark.parametrize("name", ["add_decimals", "add_step_headers", "add_blank_lines", "swap_operands"])
def test_the_step_checker_reads_rewritten_solutions_of_the_sandbox(name):
    for row in graded_rows(20, 3):
        for text in row["completions"]:
            new = REWRITES[name](row["prompt"], text)
            assert new is not None
            assert new != text
            assert check_steps(row["prompt"], new, lenient=True) == check_steps(row["prompt"], text)


def test_the_step_checker_sees_a_rewrite_that_changes_a_step():
    problem = problems("train", 1)[0]
    wrong = "\n".join(f"Step {k}: 1 + 1 = 3" for k in range(3))
    assert not any(check_steps(problem.text, wrong, lenient=True))
