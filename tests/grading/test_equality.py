"""Which pairs of answers are equal, by kind: wrong answers that look right to SymPy, right ones in another notation."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from implicit_prm.grading import Grader

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"

DIFFERENT = {
    "tiny values": [
        (r"\frac{1}{2^{98}}", r"\frac{1}{2^{97}}"),
        ("10^{-30}", "10^{-31}"),
        ("-10^{-20}", "10^{-20}"),
        ("0", "10^{-20}"),
        ("10^{-20}", "0"),
        (r"3\times10^{-9}", r"4\times 10^{-9}"),
        ("0.0000000001", "0.0000000002"),
        ("1e-7", "2e-7"),
        (r"\frac{\sqrt{2}}{10^{40}}", r"\frac{\sqrt{3}}{10^{40}}"),
        ("e^{-2000}", "e^{-2001}"),
        (r"\frac{1}{1990!}", r"\frac{1}{1992!}"),
        (r"\frac{x}{2^{98}}", r"\frac{x}{2^{97}}"),
        ("(10^{-20},1)", "(10^{-21},1)"),
        (r"\{10^{-20},1\}", r"\{10^{-21},1\}"),
        ("x=10^{-20}", "x=10^{-21}"),
        ("[0,10^{-20}]", "[0,10^{-21}]"),
        (r"x\le 10^{-20}", r"x\le 10^{-21}"),
        (r"\begin{pmatrix}10^{-20}\\1\end{pmatrix}", r"\begin{pmatrix}10^{-21}\\1\end{pmatrix}"),
    ],
    "large values": [
        ("10^{20}", "10^{20}+1"),
        (r"\sqrt{10^{40}+1}", "10^{20}"),
        ("100!", "101!"),
        ("6.02e23", "6.03e23"),
    ],
    "decimals": [("1.0000001", "1"), ("0.33", "1/3"), (r"\pi", "3.14"), ("12", "12.5")],
    "bases": [("413_5", "413_6"), ("1A_{16}", "1B_{16}"), ("1011_2", "1011_3"), ("101_2", "101_{10}"), ("x_1", "x_2")],
    "letters": [
        ("ABCD", "DCBA"),
        ("stop", "post"),
        (r"\text{star}", "rats"),
        (r"\text{stop}", r"\text{post}"),
        ("A B C D", "D C B A"),
        ("(ABC,DEF)", "(CBA,FED)"),
        ("A1", "1A"),
    ],
    "mixed numbers": [("1", "1 1/2"), ("2/3", "1 1/3"), ("4/2", "3 1/2"), ("1/2", "1 1/2"), (r"\frac{11}{2}", "1 1/2")],
    "products": [("5", "2(3)"), ("7", "2(5)"), ("23", "2(3)")],
    "intervals": [("x>1", r"[1,\infty)"), ("[0,3]", r"0\le x<3"), ("(0,7.5)", "0<x<7.6")],
    "words": [(r"\text{October 30}", "October 31"), (r"\text{October 30}", "30"), (r"\text{Room 12}", "Room 13")],
    "choices": [("B", "A. 12 apples"), ("B", "Bob")],
    "order": [(r"\langle 1,2\rangle", "(2,1)")],
    "domains": [("|x|", "x"), (r"\sqrt{x^2}", "x")],
    "currencies": [("12", "USD 13")],
    "degrees": [("90", r"91^\circ")],
    "times": [(r"3:45 \text{ p.m.}", r"3:45 \text{ a.m.}")],
}

EQUAL = {
    "mixed numbers": [("3/2", "1 1/2"), ("-1.5", r"-1\frac{1}{2}"), ("3.5", r"3\tfrac12"), ("5/2", "2 1/2 hours")],
    "products": [("6", "2(3)"), ("2(x+1)", "2x+2"), ("2(3+4)", "14"), (r"\log_2(8)", "3"), (r"\frac{1}{2}(3)", "1.5")],
    "scientific notation": [
        ("0.0001", "1e-4"),
        ("120000", "1.2 x 10^5"),
        ("120000", r"1.2 \times 10^5"),
        ("120,000", "1.2*10^5"),
        ("1/10000", "10^-4"),
        ("100000", "1E5"),
        ("1.5e10", r"1.5 \times 10^{10}"),
    ],
    "powers": [("x^{-2}", "x^-2"), ("1/x^2", "x^-2"), ("1024", "2^10"), ("8", "2**3"), ("x^2", "x**2")],
    "approximately": [(r"\approx 3.14", "3.14"), ("2.5", r"x \approx 2.5"), ("12", "about 12"), ("5", "≈ 5")],
    "words": [
        (r"\text{October 30}", "October 30"),
        (r"\text{yes}", "Yes"),
        (r"\text{1A}", "1A"),
        ("ABCD", r"\text{ABCD}"),
    ],
    "currencies": [
        *(("12", given) for given in ("USD 12", "Rs. 12", "Rs 12", "EUR 12", "12 USD", r"\$12", "US$12", "£12", "¥12")),
        ("168000", r"\text{\$}168,000"),
        ("-5", "-$5"),
        ("1200", "₹1,200"),
    ],
    "degrees": [("90", r"90^\circ"), (r"90^\circ", "90 degrees"), ("20", r"20^\circ\text{C}"), ("25", "25 °F")],
    "brackets": [(r"\left\langle 1, 2, 3\right\rangle", "(1,2,3)"), ("<1, 2>", r"\langle 1,2\rangle")],
    "choices": [
        ("B", "B. 12 apples"),
        ("B", "(B) 12 apples"),
        (r"\textbf{(B)}\ 12", "B"),
        (r"\text{(B)}", "B"),
        ("C", r"\text{C: the third}"),
        ("B", "Option B"),
    ],
    "intervals": [
        ("(0,1)", "0<x<1"),
        ("0<x<1", "(0,1)"),
        (r"[1,\infty)", r"x\ge 1"),
        (r"x \geq 1", r"[1,\infty)"),
        (r"(-\infty,2]", r"x\le 2"),
        (r"(-\infty,2)\cup(3,\infty)", r"x<2 \text{ or } x>3"),
        (r"x<2 \text{ or } x>3", r"(-\infty,2)\cup(3,\infty)"),
        (r"x \in [0,3)", r"0\le x<3"),
    ],
    "bases": [("413_5", "413_{5}"), ("413_5", "413"), ("101_2", "5_{10}")],
    "variables": [("2xy", "2yx"), ("xy", "yx"), (r"\frac{1}{\sqrt{n}}", r"\sqrt{1/n}"), (r"\sqrt{n^3}", r"n\sqrt{n}")],
    "decimals": [("0.333333", "1/3"), ("2.0", "2"), ("0.5", r"\frac12"), ("0.66666667", r"\frac23")],
    "units": [
        ("5", r"5\,\frac{\text{km}}{\text{h}}"),
        ("1/2", r"0.5 \text{ cup}"),
        ("13.2", r"13.20\%"),
        ("55", "55 m/s"),
        ("72", "72 Mb/h"),
    ],
    "times": [(r"3\text{:}45\text{ p.m.}", "3:45 PM"), ("3:45 pm", "3:45")],
}


def pairs(kinds):
    return [pytest.param(gold, answer, id=f"{kind}: {gold} {answer}") for kind in kinds for gold, answer in kinds[kind]]


@pytest.fixture(scope="module")
def grader():
    with Grader() as grader:
        yield grader


@pytest.mark.parametrize(("gold", "answer"), pairs(DIFFERENT))
def test_different_answers(grader, gold, answer):
    assert grader.equal(gold, answer).status == "different"


@pytest.mark.parametrize(("gold", "answer"), pairs(EQUAL))
def test_equal_answers(grader, gold, answer):
    assert grader.equal(gold, answer).status == "equal"


@pytest.mark.shared
@pytest.mark.parametrize("name", ["grading", "closing_sentences"])
def test_shared_cases(grader, name):
    path = CASES / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    for case in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        compare = grader.equal if case.get("kind") == "answer" else lambda gold, text: grader.grade(text, gold)
        assert compare(case["gold"], case["text"]).correct == case["correct"], case


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So, after giving 3 lollipops to Ella, Erin has 14 lollipops left.", "14"),
        ("Therefore, a 42 kg bag of rice will last for 3 weeks.", "3"),
        ("So, 8 pens will cost $12.00.", "12"),
        ("**21 melons were not ready to be harvested**", "21"),
        ("The final value is 13.20%", "13.2"),
        ("Therefore it takes 2 1/2 hours.", "2.5"),
        (r"Hence \[ x = \frac{3}{4}. \]", "0.75"),
        (r"So there are $12$ or $15$ of them.", "12, 15"),
        ("Total = 30 + 20 = 50 minutes", "50"),
        ("25 * 4 = 0\n0 * 4 = 0\n3 * 8 = 24", "24"),
        ("3 * 4 = 12\n12 * 2", "24"),
    ],
)
def test_the_end_of_an_unmarked_text(grader, text, answer):
    verdict = grader.grade(text, answer)
    assert (verdict.status, verdict.rule) == ("equal", "end")
    assert grader.grade(text, answer, finished=False).status == "no_answer"
    with Grader("boxed") as boxed:
        assert boxed.grade(text, answer).status == "no_answer"


def test_the_limit_is_cpu_time(grader):
    assert grader.equal("2", r"\sqrt{4}").correct
    process = grader._worker._process
    os.kill(process.pid, signal.SIGSTOP)  # it waits as it would on a busy machine
    threading.Timer(7, os.kill, (process.pid, signal.SIGCONT)).start()
    assert grader.equal("3", r"\sqrt{9}").correct
    assert grader._worker._process is process


def test_a_stopped_worker_is_replaced(monkeypatch):
    monkeypatch.setattr("implicit_prm.grading.process._WALL_FACTOR", 20)
    with Grader(limit_s=1) as grader:
        assert grader.equal("2", r"\sqrt{4}").correct
        monkeypatch.setattr("implicit_prm.grading.process._WALL_FACTOR", 1)
        os.kill(grader._worker._process.pid, signal.SIGSTOP)
        start = time.monotonic()
        assert grader.equal("3", r"\sqrt{9}").status == "timeout"
        assert time.monotonic() - start < 10
        monkeypatch.setattr("implicit_prm.grading.process._WALL_FACTOR", 20)
        assert grader.equal("3", r"\sqrt{9}x").status == "different"
