from fractions import Fraction

import pytest

from implicit_prm.grading.latex import decimals_as_fractions, exact_value, plain_text, resolve_bases, to_latex


@pytest.mark.parametrize(
    ("answer", "tex"),
    [
        ("5²", "5^{2}"),
        ("x₁₂", "x_{12}"),
        ("2√3 − √(x+1)", r"2\sqrt{3} - \sqrt{x+1}"),
        ("2π", r"2\pi"),
        ("90°", "90"),
        ("½", r"\frac{1}{2}"),
        ("12 345 678", "12345678"),
        ("1 2", "1 2"),
        (r"0.\overline{3}", r"\frac{1}{3}"),
        (r"1.2\bar{3}", r"\frac{37}{30}"),
        (r"-0.1\overline{6}", r"-\frac{1}{6}"),
        (r"12\text{ cm}^2", "12"),
        (r"\frac{1}{2} \mathrm{kg}", r"\frac{1}{2}"),
        ("12 square feet", "12"),
        ("12 cm", "12"),
        ("12th", "12"),
        (r"12^{\text{th}} \text{ grade}", "12"),
        (r"12\text{th grade}", "12"),
        ("12^{th}", "12"),
        ("Three", "3"),
        ("12 miles/hour", "12"),
        (r"\$2.5 \text{ million}", r"2.5 \times 1000000"),
        ("3 dozen eggs", r"3 \times 12"),
        (r"15^{-1}\equiv 29\pmod{31}", "29"),
    ],
)
def test_what_is_written_for_people_becomes_tex(answer, tex):
    assert to_latex(answer) == (tex, False)


@pytest.mark.parametrize(
    "answer",
    [
        *("5x", "2 ab", "5m", "3 or more", "2 thirds", "2 am", "x_1", r"2\pi", r"7\sin x", r"2\text{ pm}"),
        *(r"5 \text{ or } 6", r"\text{Monday}", r"5\text{ ft }3", r"\frac{5\text{ cm}}{2}"),
    ],
)
def test_mathematics_is_no_unit(answer):
    assert to_latex(answer) == (answer, False)


@pytest.mark.parametrize("answer", ["50%", r"50\%", "50 percent", "50 per cent", r"50 \%"])
def test_percentages(answer):
    assert to_latex(answer) == ("50", True)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("-1,234.50", Fraction(-2469, 2)),
        (".5", Fraction(1, 2)),
        ("-3/6", Fraction(-1, 2)),
        (r"\frac{3}{6}", Fraction(1, 2)),
        (r"-\frac34", Fraction(-3, 4)),
        ("1/0", None),
        ("x", None),
        ("", None),
        ("1,23", None),
        ("9" * 50, Fraction(10**50 - 1)),
    ],
)
def test_exact_value(answer, value):
    assert exact_value(answer) == value


def test_plain_text_has_no_commands():
    assert plain_text(r"\text{October 30}") == plain_text("october 30.")
    assert plain_text("X") != plain_text("x")
    assert plain_text("3.5") != plain_text("35")


def test_bases_count_where_both_answers_have_one():
    assert resolve_bases("413_5", "108_{10}") == ("108", "108")
    assert resolve_bases("413_5", "413") == ("413", "413")
    assert resolve_bases("9_5", "9_6") == ("9_5", "9_6")  # 9 is no digit there
    assert resolve_bases("x_1", "a_2") == ("x_1", "a_2")


def test_decimals_become_exact_fractions():
    assert decimals_as_fractions("2.50x") == r"\frac{250}{100}x"
    assert decimals_as_fractions(".5") == r"\frac{5}{10}"
