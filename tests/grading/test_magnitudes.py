import itertools

import pytest

from implicit_prm.grading.equality import compare
from implicit_prm.grading.latex import normalise
from implicit_prm.grading.magnitudes import TOLERANCE, apart, magnitude, numbers

# One line per value, in forms that are read in different ways.
FORMS = [
    ["5", "5.0", r"\frac{10}{2}", "x = 5", r"\sqrt{25}", r"\{5\}", "5.0000001"],
    ["1/3", "0.333333", r"\frac{1}{3}", r"33\frac13\%"],
    [r"\sqrt{12}", r"2\sqrt{3}", r"\frac{6}{\sqrt{3}}"],
    ["(1,2)", "(1.0, 2)", r"\left( 1, \frac{4}{2} \right)", r"\langle 1, 2 \rangle"],
    [r"\{1, 2\}", r"\{2, 1\}", "1, 2", "2, 1", r"1 \text{ and } 2"],
    [r"[0, 1)", r"0 \le x < 1", r"x \in [0, 1)"],
    ["x < 2", r"(-\infty, 2)", "2 > x", "2x < 4"],
    ["x^2 - 1", "(x - 1)(x + 1)", "-1 + x^2"],
    ["y = 2x + 3", "2x + 3", "2x - y + 3 = 0", "y - 3 = 2x"],
    ["abc", r"\text{abc}", r"\text{ABC}"],
    ["xy", "yx", r"\text{xy}"],
    ["e", "E", r"\text{e}"],
    ["10^{400}", r"10 \cdot 10^{399}"],
    [r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1.0 \\ 4/2 \end{pmatrix}"],
    ["50%", "50", "0.5", r"\frac12"],
    ["413_5", "108_{10}", "413"],
    ["2:30 pm", "2:30"],
    ["B", "(B)", "B. 12", "option b"],
    [r"\frac{1}{\sqrt{n}}", r"\sqrt{1/n}", r"n^{-1/2}"],
    [r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}"],
    ["0", r"\sqrt{2} - \sqrt{2}", "-0", r"\sqrt{8} - 2\sqrt{2}"],
    ["x = 1, y = 2", r"\{1, 2\}"],
]


@pytest.fixture(scope="module")
def answers():
    return [normalise(answer) for forms in FORMS for answer in forms]


@pytest.mark.parametrize("forms", FORMS, ids=lambda forms: forms[0])
def test_equal_answers_are_never_apart(monkeypatch, forms):
    monkeypatch.setattr("implicit_prm.grading.equality.apart", lambda one, other: False)
    for one, other in itertools.combinations(map(normalise, forms), 2):
        if "equal" in (compare(one, other), compare(other, one)):
            assert not apart(numbers(one), numbers(other)), (one, other)
            sizes = [float(size) for size in (magnitude(one), magnitude(other)) if size]
            assert len(sizes) < 2 or sizes[0] == sizes[1] or abs(sizes[0] - sizes[1]) < 1.001 * TOLERANCE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\sqrt{3}", r"\sqrt{5}"),
        (r"\sqrt{3}", r"-\sqrt{3}"),
        (r"-\sqrt{3}", r"\sin 80^\circ(4 \cos 80^\circ-1)"),
        ("(1,2,3)", "(1,3,3)"),
        ("(1,2)", "(1,2,3)"),
        (r"[2,\infty)", r"(-\infty,2]"),
        ("x < 2", "x < 3"),
        ("x + 1", "x + 2"),
        (r"\frac{1}{10^{20}}", r"\frac{1}{10^{21}}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    ],
)
def test_answers_with_other_numbers_are_apart(one, other):
    assert apart(numbers(one), numbers(other))
    assert compare(one, other) == "different"


@pytest.mark.parametrize("answer", ["y = 2x + 3", "50%", "413_5", "x_1", "2:30 pm", r"\mathbb{R}", "10^{400}", "@@"])
def test_answers_that_can_be_read_in_two_ways_have_no_magnitude(answer):
    assert magnitude(answer) == ""
