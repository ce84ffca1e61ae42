"""Answers made to hang, crash or fool a grader. Each has its verdict, and the grader must be right about the next."""

import itertools
import time

import pytest

from implicit_prm.grading.grader import Grader

LIMIT_S = 1.0
FRESH = itertools.count(10_001)


@pytest.fixture(scope="module")
def grader():
    with Grader() as grader:
        yield grader


@pytest.fixture(scope="module")
def hasty():
    with Grader(limit_s=LIMIT_S) as grader:
        yield grader


def still_right(grader):
    k = next(FRESH)
    right = grader.equal(rf"\sqrt{{{k}}}", rf"\frac{{{k}}}{{\sqrt{{{k}}}}}")
    wrong = grader.equal(rf"\sqrt{{{k}}}", rf"\frac{{{k + 1}}}{{\sqrt{{{k}}}}}")
    return (right.status, wrong.status) == ("equal", "different")


def matrix(size, kind="pmatrix", first=0):
    rows = [[i * j for j in range(size)] for i in range(size)]
    rows[0][0] = first
    return rf"\begin{{{kind}}}" + r"\\".join("&".join(map(str, row)) for row in rows) + rf"\end{{{kind}}}"


ENDLESS = {
    "power tower": "9^{9^{9^9}}",
    "factorial": "(10^9)!",
    "sum": r"\sum_{k=1}^{10^{12}} \frac{1}{k}",
    "nested brackets": "(" * 900 + "5" + ")" * 900,
    "nested roots": r"\sqrt{" * 250 + "4" + "}" * 250,
    "binomial": r"\binom{10^9}{5 \cdot 10^8}",
    "integral": r"\int_0^1 e^{x^{x^x}} dx",
}


@pytest.mark.parametrize("name", ["power tower", "nested brackets"])
def test_what_never_ends_is_ended(hasty, name):
    assert still_right(hasty)
    workers = hasty._worker.started
    assert hasty.equal("5", ENDLESS[name]).status == "timeout"
    assert still_right(hasty)
    assert hasty._worker.started == workers + 1


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ENDLESS) - {"power tower", "nested brackets"}))
def test_more_that_never_ends(hasty, name):
    gold = "1" if name == "nested roots" else "5"  # their value, without which the two are compared at once
    assert hasty.equal(gold, ENDLESS[name]).status == "timeout"
    assert still_right(hasty)


MEGABYTE = 1_000_000
HUGE = {
    "10,000 braces": "{" * 10_000 + "5" + "}" * 10_000,
    "a megabyte of letters": "x" * MEGABYTE,
    "a megabyte of fractions": r"\frac{" * (MEGABYTE // 6),
    "open braces": "{" * 100_000,
    "backslashes": "\\" * 100_000,
    "a set of 100,000": r"\{" + ",".join(map(str, range(100_000))) + r"\}",
    "a number of 100,000 digits": "7" * 100_000,
    "a matrix of 50 x 50": matrix(50),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_huge_is_compared_as_a_string(grader, name):
    answer = HUGE[name]
    start = time.process_time()
    assert grader.equal(answer, answer).status == "equal"
    assert grader.equal("5", answer).status == "different"
    assert grader.grade(rf"thus \boxed{{{answer}}}", "5").status in ("different", "no_answer")
    assert time.process_time() - start < 15
    assert still_right(grader)


@pytest.mark.parametrize(
    ("gold", "answer", "status"),
    [
        # broken on purpose
        ("5", r"\frac{1}{2", "different"),
        ("12", "x} + 12", "different"),
        ("5", "5\0", "different"),
        ("5", "5\ud800", "different"),
        ("5", r"\def\a{\a\a}\a", "different"),
        ("5", r"\newcommand{\x}{\x\x}\x", "different"),
        ("5", "", "different"),
        ("@", "#", "unparsable"),
        (r"\frac{1}{0}", r"\frac{2}{0}", "unparsable"),
        ("3:00", "2:00", "unparsable"),
        # digits of other scripts, and other Unicode
        ("3", "٣", "equal"),
        ("12", "１２", "equal"),
        ("25", "5²", "equal"),
        ("5", "5²", "different"),
        (r"32 - 16\sqrt{6}", "32 - 16√6", "equal"),
        ("16", "32 - 16√6", "different"),
        # matrices, sets, intervals
        (matrix(3), matrix(3, "bmatrix"), "equal"),
        (matrix(3), matrix(3, first=1), "different"),
        (r"\{1,2,3\}", "3, 1, 2", "equal"),
        ("3,4", r"x=3 \text{ or } x=4", "equal"),
        (r"\pm 2", "-2, 2", "equal"),
        ("(1,2)", "(2,1)", "different"),
        ("[0,1)", r"\left[0, 1\right)", "equal"),
        ("(0,1)", "[0,1]", "different"),
        (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)", "equal"),
        # words
        (r"\text{Monday}", "monday", "equal"),
        (r"\text{(C)}", "C", "equal"),
        (r"\text{even}", "odd", "different"),
        # units, money, percentages
        ("12", r"12\text{ cm}^2", "equal"),
        (r"12 \text{ cm}", "13 cm", "different"),
        ("2", "2 beakers", "equal"),
        ("5", r"5\text{ ft }3\text{ in}", "different"),
        (r"5\text{ ft }8\text{ in}", r"5\text{ ft }3\text{ in}", "different"),
        (r"2\text{ am}", r"2\text{ pm}", "different"),
        ("5", "€5", "equal"),
        ("2000000", "2 million", "equal"),
        ("2", r"2\text{ million}", "different"),
        (r"50\%", "50 percent", "equal"),
        (r"50\%", "0.5", "equal"),
        (r"5\%", r"50\%", "different"),
        # numbers
        ("1234567", "1,234,567", "equal"),
        ("12345", "12 345", "equal"),
        ("0", "1 000", "different"),
        (r"\frac14", "0.25", "equal"),
        (r"\frac13", "0.33", "different"),
        (r"\frac13", r"0.\overline{3}", "equal"),
        ("0", r"0.\overline{3}", "different"),
        ("1.5", r"1\frac12", "equal"),
        (r"\frac{11}{2}", r"1\frac{1}{2}", "different"),
        ("10^{5000}", "10^{5001}", "different"),
        ("120", "5!", "equal"),
        # equations and congruences
        ("5", "x = 5", "equal"),
        ("9", "= 9", "equal"),
        ("29", r"15^{-1} \equiv 29 \pmod{31}", "equal"),
        # working
        ("1218", "1,360 - 142 = 1,218", "equal"),
        ("1360", "1,360 - 142 = 1,218", "different"),
        ("48", "2 * 3! * 2! = 2 * 6 * 2 * 2 = 48", "equal"),
        (r"x \ne 6", "x != 6", "equal"),
        ("45", "15 + 35 = 50; 50 * 0.1 = 5; 50 - 5 = 45", "equal"),
        ("5", "15 + 35 = 50; 50 * 0.1 = 5; 50 - 5 = 45", "different"),
        # times
        ("2", "2:00 pm", "equal"),
        ("2:30", r"2:30 \text{ p.m.}", "equal"),
        ("2", "2:10 pm", "different"),
        ("2 am", "2:00 pm", "different"),
    ],
)
def test_verdicts_on_awkward_answers(grader, gold, answer, status):
    assert grader.equal(gold, answer).status == status


@pytest.mark.parametrize(
    ("response", "answer", "status"),
    [
        (r"\boxed{}", None, "no_answer"),
        (r"\boxed{ } but \boxed{5", None, "no_answer"),
        (r"\boxed{\boxed{5}}", "5", "equal"),
        (r"\boxed{6} no, \boxed{5} and on we go with 7 and 8.", "5", "equal"),
        ("}" * 5000 + r"\boxed{5}" + "{" * 5000, "5", "equal"),
        ("{" * 5000 + r"\boxed{5}", "5", "equal"),
        (r"\boxed{" * 5000 + "5" + "}" * 5000, "5", "equal"),
        ("\0\ud800" * 1000 + r"\boxed{5}", "5", "equal"),
    ],
)
def test_verdicts_on_awkward_responses(grader, response, answer, status):
    verdict = grader.grade(response, "5")
    assert (verdict.answer, verdict.status) == (answer, status)
