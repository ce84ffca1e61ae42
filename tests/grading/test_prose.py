import time

import pytest

from implicit_prm.grading.extraction import find_answer
from implicit_prm.grading.prose import LIMIT, VALUE, closing_value, stated_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Adding them gives 3 + 4 = 7.", "7"),
        ("Total = 30 + 20 = 50 minutes", "50"),  # lists often have no full stop
        ("Add them:\n\\[ 3 + 4 = 7 \\]\n", "3 + 4 = 7"),
        ("The midpoint lies at\n$$(1, 2)$$", "(1, 2)"),
        ("Multiplying, \\( 6 \\times 2 = 12 \\) cups.", "6 \\times 2 = 12"),
        ("Therefore she has 12 apples left (15 - 3).", "12"),
        ("Therefore the point is (3, 4).", "(3, 4)"),
        ("The sum of these is $1{,}000$.", "1{,}000"),
        ("It simplifies to exactly 5 kg.", "5"),
        ("He is now 9 years old.", "9"),
        ("**Conclusion:** there are **12** of them in 3 boxes.", "12"),
        ("Thus the roots are 3, 4 and 5.", "3, 4, 5"),
        ("So b = -3 or b = 3.", "-3, 3"),
        ("Thus it takes 2 weeks to save $80.", "2"),
        ("Therefore, if a ticket costs $5, then 12 people come.", "12"),
        ("Thus 6 pints are equivalent to 3 quarts.", "3"),
        (r"Therefore, \(\sqrt{53}\) remains as \(\sqrt{53}\).", r"\sqrt{53}"),
        ("So 3 of them stay, and 3 of them go.", "3"),
        ("Thus **three pints** weigh as much as one quart.", "three"),
        ("So x = 1, x = 2 and x = 3.", "1, 2, 3"),
        ("We find k = 15 and c = 5.", "5"),
        ("Then 30x = 360, x = 360/30, x = 12.", "12"),
        (r"Then \(a = b = 1\), so the least value is 8.", "8"),
        ("As the base cannot be 0, a = 9.", "9"),
        ("The distance is 32 - 16√6 units.", "32 - 16√6"),
        ("The ratio is (1 + √3) / 2.", "(1 + √3) / 2"),
        ("The maximum is 6*sqrt(2) - 2.", "6*sqrt(2) - 2"),
        ("It costs $5 and is sold for $8, so the profit is $3.", "$3"),
        ("Therefore, Tom makes 64 faces for Mr. Potato Head.", "64"),
        ("Half is lost, which is 20, leaving him with 60 marbles.", "60"),
        ("These are 6 red and 3 white rows, totaling 9 rows.", "9"),
        (r"It is about \(37.68\) inches, or more precisely, \(12\pi\) inches.", r"12\pi"),
        ("**Two more than Ann:** he buys 15 + 2 = 17 masks.", "17"),
        ("The chance is 3/25, or 12%.", "12%"),
        ("The chance is 3/25 or 13%.", "3/25, 13%"),
        # introductions
        ("Since a dollar is 100 cents, each of them is 10 cents.", "10"),
        ("Therefore, according to Ann, if it costs $2500, 9 customers buy it.", "9"),
        (r"Solving it gives us \(x = 14\), meaning that it is done.", "x = 14"),
        ("So, after the 20% discount, you pay $800.", "$800"),
        ("Therefore, with $9,000 per school, he can buy 1,800 books.", "1,800"),
        ("Thus you set it to 500 degrees if the recipe says 520, given the fault.", "500"),
        (r"Since \(x = 2\), \(y = 3\).", "y = 3"),
        # qualifications
        ("The minimum is 6, when x = 4.", "6"),
        ("It is 4, and since she has 2, each is 4 / 2 = 2.", "2"),
        ("All are 999, and the number of those that are odd is 500.", "500"),
        ("Thus there are 9 pairs such that their mean is 20.", "9"),
        (r"Therefore, \( y = 7 \) when \( x = 6 \).", "y = 7"),
    ],
)
def test_what_a_text_closes_with(text, value):
    assert closing_value(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "So Tim makes $60 selling 10 jars.",  # which of the two is asked for?
        "Therefore, at $5, 12 people come.",
        "Thus 12 positive and 12 negative integers divide it.",
        "Then we divide by 30.",
        "The price is 14 days * $12 per day.",
        "This is 700 minus 280, as before.",
        "The limit is 7(1/6)^n, and the rest is 4cos^2 x.",
        "The result is half of that.",
        "She starts at 2:00 and ends on the 10th.",
        "Therefore, the latest time is 2:00 pm.",
        "Therefore, there is no solution for x.",
        "Therefore, the number of apples is 12 and the",  # cut off
        "We get x =",
        "",
    ],
)
def test_what_is_not_clear_is_not_guessed(text):
    assert closing_value(text) == ""


def test_remarks_do_not_count_but_tuples_and_factors_do():
    assert stated_value("There are 20 hats (50 - 30).") == "20"
    assert stated_value("There are 20 hats (of 50 in all), which is (1 + 2) * 3.") == "(1 + 2) * 3"


def test_dollars_are_money_or_formulas():
    assert [m[0] for m in VALUE.finditer("from $20 to $30")] == ["$20", "$30"]
    assert [m[0] for m in VALUE.finditer("with $x = 20$ and $ y $")] == ["$x = 20$", "$ y $"]


REPEATED = [
    "(",
    ")",
    "[",
    "(1",
    "1 ",
    "1,",
    "1+",
    "a+",
    "√(",
    "**",
    "$ ",
    "$1",
    "is ",
    "is 1, ",
    "=",
    "= 1 or ",
    r"\(",
    "x - ",
    " (a",
    "- ",
]


@pytest.mark.parametrize("unit", REPEATED)
def test_the_end_of_a_text_is_read_in_bounded_time(unit):
    start = time.process_time()
    for end in (".", " = 1.", " is", "\nSo 1.", " apples"):
        find_answer(unit * (2 * LIMIT) + end)
        find_answer("the answer is " + unit * (2 * LIMIT) + end)
    assert time.process_time() - start < 2
