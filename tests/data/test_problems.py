"""Problems of files and of the sandbox. The named sets are in test_layouts.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from implicit_prm import sandbox
from implicit_prm.config import ProblemsConfig
from implicit_prm.data.problems import load_problems, step_checker
from implicit_prm.rewards.step_splitting import split_steps
from implicit_prm.types import ImplicitPRMError
from tests.conftest import write_rows


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"prompt": "1+1?", "answer": 2}, "2"),
        ({"question": "1+1?", "answer": "So\n#### 2"}, "2"),
        ({"problem": "1+1?", "solution": "It is $\\boxed{2}$."}, "2"),
        ({"prompt": "1+1?", "reference": "2"}, "2"),
    ],
)
def test_a_file_of_ones_own(row, answer, tmp_path):
    (problem,) = load_problems(ProblemsConfig(str(write_rows(tmp_path / "problems.jsonl", [row]))))
    assert (problem.text, problem.answer) == ("1+1?", answer)
    assert problem.id


def test_a_local_copy_must_have_the_named_sets_columns(tmp_path):
    path = str(write_rows(tmp_path / "p.jsonl", [{"problem": "1?", "answer": "1"}]))
    with pytest.raises(ImplicitPRMError, match=r"p.jsonl: has columns problem, answer; expected .* \(solution\)"):
        load_problems(ProblemsConfig("math", path=path))
    with pytest.raises(ImplicitPRMError, match=r"problems.path .*math, math500, gsm8k; .*problems.name"):
        load_problems(ProblemsConfig("mine.jsonl", path=path))


def test_the_limit_takes_the_first(tmp_path):
    rows = [{"problem": f"{n}?", "answer": str(n)} for n in range(5)]
    problems = load_problems(ProblemsConfig(str(write_rows(tmp_path / "p.jsonl", rows)), limit=2))
    assert [problem.answer for problem in problems] == ["0", "1"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"problem": "1?"}], "expected a problem"),
        ([{"text": "1?", "answer": "1"}], "has columns answer, text|has columns text, answer"),
        ([{"problem": "1?", "solution": "no box"}], "no row has an answer"),
        ([{"problem": "1?", "solution": "It is $\\boxed{}$."}], "no row has an answer"),
        ([{"problem": " ", "answer": "1"}], "row 1: problem is ' '"),
        ([{"problem": "1?", "answer": "1"}, {"problem": "2?"}], "row 2: no column answer, which other rows have"),
        (
            [{"id": "a", "problem": "1?", "answer": "1"}, {"id": "a", "problem": "2?", "answer": "1"}],
            "ids in column id",
        ),
    ],
)
def test_rows_that_cannot_be_used_are_named(rows, message, tmp_path):
    with pytest.raises(ImplicitPRMError, match=message):
        load_problems(ProblemsConfig(str(write_rows(tmp_path / "p.jsonl", rows))))


def test_the_sandbox_is_a_source_with_a_step_checker():
    problems = load_problems(ProblemsConfig("sandbox", "dev", limit=3))
    assert problems == sandbox.problems("dev", 3)
    assert step_checker("sandbox") is sandbox.check_steps
    assert step_checker("gsm8k") is None


@given(text=st.one_of(st.text(), st.text(alphabet=" \n\t\r\x0b1+=")))
def test_the_sandboxs_step_labels_are_of_the_steps_that_are_scored(text):
    labels = sandbox.check_steps("Modulo 50, left to right: 1 + 2 * 3 + 4", text)
    assert len(labels) == len(split_steps(text, "newline"))


def test_rows_without_an_answer_are_left_out_and_counted(tmp_path):
    rows = [{"problem": "1?", "answer": "1"}, {"problem": "2?", "answer": ""}, {"problem": "3?", "answer": "3"}]
    said = []
    problems = load_problems(ProblemsConfig(str(write_rows(tmp_path / "p.jsonl", rows)), limit=2), said.append)
    assert [problem.answer for problem in problems] == ["1", "3"]
    assert said == [f"{tmp_path}/p.jsonl: left out 1 rows without an answer (the first is {tmp_path}/p.jsonl, row 2)"]
