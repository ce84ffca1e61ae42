import gzip
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from implicit_prm.grading import Grader, Verdict
from implicit_prm.types import ImplicitPRMError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
ENDLESS = "9^{9^{9^9}}"  # math-verify computes it, in C
LIMIT_S = 0.6


@pytest.fixture(scope="module")
def grader():
    with Grader() as grader:
        yield grader


@pytest.fixture(scope="module")
def hasty():
    with Grader(limit_s=LIMIT_S) as grader:
        yield grader


FRESH = itertools.count(3)


def works(grader):
    """It grades a pair that it has not seen, and its worker is up afterwards."""
    k = next(FRESH)
    return grader.equal(rf"\sqrt{{{k}}}", rf"\frac{{{k}}}{{\sqrt{{{k}}}}}").correct


def count_calls(grader):
    """The functions that the worker is asked for from now on."""
    calls, call = [], grader._worker.call
    grader._worker.call = lambda function, *arguments: (calls.append(function), call(function, *arguments))[1]
    return calls


@pytest.mark.parametrize(
    ("gold", "answer", "status"),
    [
        ("0.5", r"\frac12", "equal"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)", "equal"),
        ("x^2 - 1", "(x-1)(x+1)", "equal"),
        ("12", r"12\text{ cm}", "equal"),
        (r"\$18.90", "18.90", "equal"),
        (r"\text{Evelyn}", "Evelyn", "equal"),
        ("10", r"10\%", "equal"),
        (r"50\%", "0.5", "equal"),
        (r"50\%", r"\frac{1}{2}", "equal"),
        (r"50\%", "0.6", "different"),
        (r"\{1, 2\}", r"\{2, 1\}", "equal"),
        ("(1, 2)", "(2, 1)", "different"),
        (r"\frac13", "0.33", "different"),
        ("2x", "2y", "different"),
        ("5", "banana", "different"),
        ("@@", "##", "unparsable"),
        ("5", "\ud800", "different"),
        ("5", None, "no_answer"),
        (None, "5", "no_answer"),
    ],
)
def test_equal(grader, gold, answer, status):
    verdict = grader.equal(gold, answer)
    assert verdict == Verdict(status, answer)
    assert verdict.correct == (status == "equal")


def test_grade_reads_the_response_and_says_what_it_read(grader):
    boxed = r"so it is $\boxed{\frac{2}{4}}$"
    assert grader.grade(boxed, "0.5") == Verdict("equal", r"\frac{2}{4}", "box")
    assert grader.grade(boxed, "0.6") == Verdict("different", r"\frac{2}{4}", "box")
    assert grader.grade("The answer is 7.", "8") == Verdict("different", "7", "phrase")
    assert grader.grade("I do not know", "0.5") == Verdict("no_answer")


def test_the_worker_is_asked_only_once_and_only_if_needed():
    with Grader() as grader:
        calls = count_calls(grader)
        for answer in ("0.5", "0.50", r"\frac12"):
            assert grader.equal("0.5", answer).correct
        assert grader._worker.started == 0
        for answer in (r"\sin x", r"\sin  x", None, r"\cos x"):
            assert not grader.equal("0.5", answer).correct
        assert calls == ["compare"] * 2


@pytest.mark.parametrize(
    ("gold", "answer", "status"),
    [
        ("5", "5", "equal"),
        ("1,000", "1000.0", "equal"),
        ("-.5", "-0.50", "equal"),
        ("9" * 1000 + "8", "9" * 1000 + "7", "different"),
        ("x + 1", "x+1", "equal"),
        ("(" * 2001, "5", "different"),
        ("y" * 1_000_000, "y" * 1_000_000, "equal"),
    ],
)
def test_what_is_plain_needs_no_worker(monkeypatch, gold, answer, status):
    monkeypatch.setattr(subprocess, "Popen", None)
    assert Grader().equal(gold, answer).status == status


def test_answers_of_more_than_2000_characters_are_strings_only(grader):
    assert grader.equal("0.5", "x=" + "0.5".ljust(1998, "0")).status == "equal"
    assert grader.equal("0.5", "x=" + "0.5".ljust(1999, "0")).status == "different"


@pytest.mark.parametrize("answer", [ENDLESS, "10^{10^{10}}"])
def test_an_endless_comparison_is_killed_and_the_next_one_works(hasty, answer):
    assert works(hasty)  # the worker is up, so that the clock below is the comparison's
    assert hasty.equal("5", answer).status == "timeout"
    assert works(hasty)


def test_deep_nesting_is_graded(hasty):
    assert works(hasty)
    assert not hasty.equal("5", "(" * 900 + "1" + ")" * 900).correct
    assert works(hasty)


def test_verdicts_are_remembered(hasty):
    assert hasty.equal("7", ENDLESS).status == "timeout"
    start = time.perf_counter()
    assert hasty.equal("7", ENDLESS).status == "timeout"
    assert time.perf_counter() - start < LIMIT_S / 2


def test_starting_the_worker_is_not_on_the_clock():
    with Grader(limit_s=0.5) as grader:  # less than math-verify takes to import
        assert grader.equal("2", r"\sqrt{4}").correct


def test_a_worker_that_died_between_comparisons_is_replaced(grader):
    assert works(grader)
    process = grader._worker._process
    process.kill()
    process.wait()
    assert works(grader)


def test_an_interrupted_comparison_does_not_answer_the_next(hasty):
    def interrupt(*_):
        raise KeyboardInterrupt

    assert works(hasty)
    handler = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            hasty.equal("8", ENDLESS)
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert works(hasty)


def test_close_ends_the_worker_and_may_be_repeated():
    grader = Grader()
    assert grader.equal("2", r"\sqrt{4}").correct
    process = grader._worker._process
    grader.close()
    grader.close()
    assert process.returncode is not None


def test_answer_classes_group_what_is_equal(grader):
    answers = ["5", None, r"\frac12", "5.0", "0.5", r"\frac{10}{2}", "6", None, "x = 5", "banana", "banana"]
    assert grader.answer_classes(answers) == [0, -1, 1, 0, 1, 0, 2, -1, 0, 3, 3]
    assert grader.answer_classes([]) == []


def test_answer_classes_do_not_depend_on_which_form_comes_first(grader):
    assert grader.answer_classes(["[0,1)", r"0 \le x < 1"]) == [0, 0]
    assert grader.answer_classes([r"0 \le x < 1", "[0,1)"]) == [0, 0]


@pytest.mark.parametrize(("place", "workers"), [(0, 2), (2, 2)])
def test_answer_classes_give_up_on_an_endless_answer(monkeypatch, place, workers):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    answers = [r"\sqrt{7}", r"2\sqrt{7}", r"3\sqrt{7}", r"\sqrt{63}", r"\sqrt{28}"]
    answers.insert(place, ENDLESS)
    with Grader(limit_s=0.4) as grader:
        classes = grader.answer_classes([*answers, ENDLESS])
    assert classes == {0: [0, 1, 2, 3, 3, 2, 0], 2: [0, 1, 2, 3, 3, 1, 2]}[place]
    assert len(started) == workers  # one at first, and one after each comparison that had to be killed


def test_it_works_from_an_unguarded_script_whose_libraries_print(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from implicit_prm.grading.grader import Grader\nprint(Grader().equal('2', r'\\sqrt{4}').status)\n"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, env={"PYTHONPATH": str(root)}
    )
    assert (run.stdout.strip(), run.returncode) == ("equal", 0), run.stderr


def test_a_worker_that_cannot_start_says_why(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('no math today')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImplicitPRMError, match="no math today"):
        Grader().equal("2", r"\sqrt{4}")


def test_stray_prints_do_not_reach_the_protocol(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text(
        "def LatexExtractionConfig(**_): pass\n"
        'def parse(text, *_, **__):\n    print(\'{"status": "unparsable"}\', flush=True)\n    return [text]\n'
        "def verify(gold, answer, **_):\n    print('noise')\n    return True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with Grader() as grader:
        assert grader.equal("0.5", "0.6x").status == "equal"


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_the_memory_of_a_comparison_is_limited(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text(
        "def LatexExtractionConfig(**_): pass\n"
        "def parse(text, *_, **__):\n    return [bytearray(8 << 30 if 'large' in text else 1)]\n"
        "def verify(gold, answer, **_):\n    return True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with Grader() as grader:
        assert grader.equal("0.5", "small").status == "equal"
        assert grader.equal("0.5", "large").status == "unparsable"


@pytest.mark.parametrize("limit_s", [0, -1, float("nan"), float("inf")])
def test_a_limit_must_be_a_positive_number(limit_s):
    with pytest.raises(ImplicitPRMError):
        Grader(limit_s=limit_s)


@pytest.mark.shared
def test_agrees_with_the_published_grades():
    path = SHARED / "data" / "math500_bon32.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    agree = total = 0
    with gzip.open(path, "rt") as rows, Grader() as grader:
        for row in (json.loads(line) for number, line in enumerate(rows) if number % 12 == 0):
            for response, correct in zip(row["responses"], row["correct"], strict=True):
                agree += grader.grade(response, row["answer"]).correct == correct
                total += 1
    assert total == 42 * 32
    assert agree / total >= 0.995


def test_answer_classes_compare_only_answers_of_about_the_same_value():
    surds = [rf"\sqrt{{{k}}}" for k in range(2, 40) if round(k**0.5) ** 2 != k]
    with Grader() as grader:
        calls = count_calls(grader)
        classes = grader.answer_classes(
            [*surds, *(rf"\frac{{{k}}}{{{s}}}" for s, k in zip(surds, (2, 3), strict=False))]
        )
        assert classes == [*range(len(surds)), 0, 1]
        assert calls.count("compare") < len(surds)


@pytest.mark.parametrize(
    "answers",
    [
        ["50%", "50", "0.5"],
        ["x = 5", "5"],
        ["413_5", "108_{10}"],
        ["B. 12", "B"],
        ["2:30 pm", "2:30"],
        ["x+1", "1+x"],
        ["0.333333", "1/3"],
        ["[0,1)", r"0 \le x < 1"],
        ["1,2", "2,1"],
        ["2+3i", "3i+2"],
        ["10^{400}", "10^{399} \\cdot 10"],
        ["ABCD", r"\text{ABCD}"],
    ],
)
def test_answer_classes_agree_with_equal(grader, answers):
    one, other = answers[0], answers[1]
    assert grader.equal(one, other).correct
    assert grader.answer_classes([one, other]) == [0, 0]
    assert grader.answer_classes([other, one]) == [0, 0]
