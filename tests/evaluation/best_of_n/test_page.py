"""report.html of a best-of-N run, parsed as a browser does."""

import json

import numpy as np
import pytest

from implicit_prm.config import BestOfNConfig, PolicyConfig, ProblemsConfig, RolloutConfig, SamplingConfig
from implicit_prm.evaluation.best_of_n import page as page
from implicit_prm.evaluation.best_of_n import run as run
from implicit_prm.evaluation.best_of_n.page import choose
from implicit_prm.evaluation.html import solutions
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.types import Group, StepScores, StepSpan
from tests.conftest import write_rows
from tests.pages import Page

ROLLOUT = RolloutConfig(
    PolicyConfig("sandbox"),
    ProblemsConfig("sandbox", prompt_template="{problem}"),
    SamplingConfig(),
    "candidates.jsonl",
)
EVIL = "<script>alert(1)</script><img src=http://evil.example/x.png onerror=alert(2)>"
ROWS = [
    {  # the pick and the vote are right
        "id": "easy",
        "problem": "1 + 1?",
        "answer": "2",
        "responses": ["so\n\n\\boxed{2}", "thus\n\n\\boxed{2}", "\\boxed{3}"],
        "scores": [[0.9, 0.8], [0.7, 0.6], [0.1]],
    },
    {  # the pick is wrong, and what it says is hostile
        "id": EVIL,
        "problem": f"2 + 2? {EVIL}",
        "answer": "4",
        "responses": [f"{EVIL}\n\n\\boxed{{5}}", "\\boxed{4}", "\\boxed{4}"],
        "steps": [[EVIL, "\\boxed{5}"], ["\\boxed{4}"], ["\\boxed{4}"]],
        "scores": [[0.9, 0.95], [0.3], [0.2]],
        "step_labels": [[False, False], [True], [True]],
    },
    {  # none is right, and nothing was scored
        "id": "hard",
        "problem": "?",
        "answer": "7",
        "responses": ["\\boxed{1}", "no answer", "\\boxed{2}"],
        "scores": [[], [], []],
    },
]


def _evaluate(folder, rows, **options):
    # Columns that some rows lack are null there, as they are in a file.
    columns = dict.fromkeys(name for row in rows for name in row)
    rows = [{name: row.get(name) for name in columns} for row in rows]
    candidates = write_rows(folder / "candidates.jsonl", rows)
    options = {"output_dir": str(folder / "out"), "scores_column": "scores", "bootstrap_resamples": 50, **options}
    run.run_best_of_n(BestOfNConfig(rollout=ROLLOUT, candidates=str(candidates), **options), lambda *_: None)
    return Page((folder / "out/report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return _evaluate(tmp_path_factory.mktemp("page"), ROWS)


def test_responses_are_escaped(made):
    assert made.source.count("<script") == 1
    assert made.scripts == [(solutions_script())]
    assert EVIL in made.text  # as a reader sees it
    assert not [name for tag in made.tags for name, _ in tag[1] if name.startswith("on")]


def solutions_script():
    from implicit_prm.evaluation.html.render import _TEMPLATES

    return (_TEMPLATES / "page.js").read_text(encoding="utf-8")


def test_the_page_loads_nothing(made):
    fetching = ("src", "href", "srcset", "action", "data", "poster", "background")
    values = [value for _, attributes in made.tags for name, value in attributes if name in fetching]
    assert len(values) == 3  # the figures
    assert all(value.startswith("data:image/png;base64,") for value in values)
    assert "@import" not in made.source
    assert "url(" not in made.source
    (policy,) = [dict(a)["content"] for tag, a in made.tags if tag == "meta" and "http-equiv" in dict(a)]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_wrong_picks_come_first(made):
    assert [article.tags for article in made.articles] == [["wrong pick"], ["right pick"], ["none is right"]]
    assert made.articles[0].title.startswith(EVIL)
    assert "3 of 3 problems: 1 of the 1 whose pick is wrong" in made.text
    assert "Not shown: 0." in made.text


def test_each_response_shows_its_roles(made):
    wrong, right, none = made.articles
    assert [response.title for response in wrong.responses] == [
        "✗ wrong answer picked",
        "✓ right answer best right one · majority vote, 2 of 3",
    ]
    assert [response.title for response in right.responses] == [
        "✓ right answer picked · best right one · majority vote, 2 of 3"
    ]
    assert "no step was scored" in none.responses[0].text
    assert "\\boxed{1}" in none.responses[0].text
    assert "majority vote, 1 of 3, tied" in none.text
    assert not none.steps


def test_steps_without_spans_are_the_given_ones_or_numbers(made):
    wrong, right, _ = made.articles
    assert [step.split("first wrong")[0] for step in wrong.steps[:2]] == [f"0.900 {EVIL} ", "0.950 \\boxed{5} wrong"]
    assert right.steps == ["0.900 step 1", "0.800 step 2 lowest"]
    assert "so\n\n\\boxed{2}" in right.text  # the whole response below


def test_steps_are_marked_by_the_labels_of_the_data(made):
    assert made.articles[0].steps == [
        f"0.900 {EVIL} first wrong lowest",
        "0.950 \\boxed{5} wrong",
        "0.300 \\boxed{4} right",
    ]


def test_a_single_response_has_all_roles(tmp_path):
    rows = [{"id": "one", "problem": "?", "answer": "5", "responses": ["\\boxed{5}"], "scores": [[0.5]]}]
    (article,) = _evaluate(tmp_path, rows).articles
    assert [r.title for r in article.responses] == ["✓ right answer picked · best right one · majority vote, 1 of 1"]
    assert article.steps == ["0.500 step 1"]  # the only step is not called the lowest


def test_steps_with_spans_are_the_text_they_cover(tmp_path):
    text = "a = 1\nb = 2"
    score = StepScores(text, [StepSpan(0, 6), StepSpan(6, 11)], [2.0, -1.0], [2.0, 1.0])
    group = Group("g", "?", [text], [False], [True], step_labels=[[True, False]])
    scale = solutions.common_scale("log_ratio", [score.step_rewards])
    steps, rest = solutions.shown_steps(group, 0, score, score.step_rewards, scale, page._marks(group, 0, score))
    assert [(step.text, step.value, step.marks) for step in steps] == [
        ("a = 1", "+2.00", ["right"]),
        ("b = 2", "-1.00", ["first wrong", "lowest"]),
    ]
    assert steps[0].colour != steps[1].colour
    assert rest == ""


def test_the_page_is_bounded_in_problems_and_in_text(tmp_path, monkeypatch):
    rows = [{**ROWS[0], "id": f"p{n}", "scores": [[0.1], [0.1], [0.9]]} for n in range(3)]
    rows += [{**ROWS[0], "id": f"q{n}"} for n in range(3)]
    monkeypatch.setattr(solutions, "PROBLEMS", 4)
    made = _evaluate(tmp_path, list(reversed(rows)))
    assert [article.tags[0] for article in made.articles] == ["wrong pick"] * 3 + ["right pick"]
    assert "4 of 6 problems: 3 of the 3 whose pick is wrong" in made.text
    assert "Not shown: 2." in made.text
    monkeypatch.setattr(solutions, "CHARACTERS", 1)
    assert len(_evaluate(tmp_path, rows).articles) == 1


def test_the_tables_hold_what_metrics_hold(made, tmp_path):
    _evaluate(tmp_path, ROWS)
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    for name, row in metrics["accuracy"].items():
        assert name in made.text
        assert f"{row['3']['value'] * 100:.1f} [{row['3']['low'] * 100:.1f}, {row['3']['high'] * 100:.1f}]" in made.text


def test_the_pick_is_the_first_of_the_highest_that_may_be_picked():
    c = Candidates(np.array([False, True, True]), np.array([0, -1, -1]), np.array([False, True, True]))
    choice = choose(c, np.array([9.0, 1.0, 1.0]))
    assert (choice.pick, choice.right, choice.vote, choice.votes) == (1, 1, 0, "1 of 3")
    assert choice.kind == "right pick, wrong vote"
    nobody = choose(Candidates(np.array([False]), np.array([-1]), np.array([False])), np.array([1.0]))
    assert (nobody.pick, nobody.right, nobody.vote, nobody.kind) == (0, None, None, "none is right")
