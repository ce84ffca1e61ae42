"""Problem sources in the exact layout of the sets they stand for."""

import pytest
from conftest import write_rows
from hypothesis import given
from hypothesis import strategies as st

from implicit_prm import sandbox
from implicit_prm.config import ProblemsConfig
from implicit_prm.data.problems import load_problems, step_checker
from implicit_prm.records import ImplicitPRMError
from implicit_prm.reward.steps import split_steps

LAYOUTS = {
    "MATH": ({"problem": "1+1?", "level": "Level 1", "solution": "It is $\\boxed{2}$.", "type": "Algebra"}, "2"),
    "MATH-500": ({"problem": "1+1?", "solution": "\\boxed{9}", "answer": "2", "unique_id": "test/a/1.json"}, "2"),
    "GSM8K": ({"question": "1+1?", "answer": "It is <<1+1=2>>2.\n#### 2"}, "2"),
    "a file of one's own": ({"prompt": "1+1?", "answer": 2}, "2"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_question_and_its_answer(layout, tmp_path):
    row, answer = LAYOUTS[layout]
    path = write_rows(tmp_path / "problems.jsonl", [row])
    (problem,) = load_problems(ProblemsConfig(str(path)))
    assert (problem.text, problem.answer) == ("1+1?", answer)
    assert problem.id


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


@pytest.mark.shared
def test_the_real_files(shared_data):
    for name, count in (("math500", 500), ("math_train", 7498), ("gsm8k_test", 1319)):
        problems = load_problems(ProblemsConfig(str(shared_data / f"{name}.jsonl.gz")))
        assert len(problems) == count


def test_rows_without_an_answer_are_left_out_and_counted(tmp_path):
    rows = [{"problem": "1?", "answer": "1"}, {"problem": "2?", "answer": ""}, {"problem": "3?", "answer": "3"}]
    said = []
    problems = load_problems(ProblemsConfig(str(write_rows(tmp_path / "p.jsonl", rows)), limit=2), said.append)
    assert [problem.answer for problem in problems] == ["1", "3"]
    assert said == [f"{tmp_path}/p.jsonl: left out 1 rows without an answer (the first is row 2)"]
