"""report.html of a ProcessBench run."""

import pytest

from implicit_prm.config import ProcessBenchConfig
from implicit_prm.evaluation.process_bench.run import run_process_bench
from tests.conftest import write_rows
from tests.pages import Page

EVIL = "</li><script>alert(1)</script>"


def _row(number, label, scores, **changes):
    return {
        "id": f"pb-{number}",
        "generator": "a model",
        "problem": f"problem {number}?",
        "steps": [f"step {k} {EVIL}" for k in range(len(scores))],
        "final_answer_correct": label == -1,
        "label": label,
        "scores": scores,
        **changes,
    }


# By a threshold of 0.5: right, too late, missed, too early, missed | right, false alarm.
ROWS = [
    _row(0, 1, [0.9, 0.2]),
    _row(1, 1, [0.9, 0.6, 0.4]),
    _row(2, 0, [0.7, 0.6]),
    _row(3, 1, [0.1, 0.2], final_answer_correct=True),
    _row(4, 1, [0.7, 0.6]),
    _row(5, -1, [0.9]),
    _row(6, -1, [0.9, 0.49]),
]


def _evaluate(folder, rows, **options):
    files = [str(write_rows(folder / f"{name}.jsonl", some)) for name, some in rows.items()]
    options = {"scores_column": "scores", "threshold": 0.5, "bootstrap_resamples": 20, **options}
    run_process_bench(ProcessBenchConfig(subsets=files, output_dir=str(folder / "out"), **options), lambda *_: None)
    return Page((folder / "out/report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return _evaluate(tmp_path_factory.mktemp("page"), {"pb": ROWS})


def test_misjudged_solutions_alternate_between_kinds(made):
    shown = [(article.title.split()[0], article.tags) for article in made.articles]
    assert shown == [
        ("pb-1", ["too late", "pb"]),
        ("pb-2", ["missed", "pb"]),
        ("pb-3", ["too early", "pb"]),
        ("pb-6", ["false alarm", "pb"]),
        ("pb-4", ["missed", "pb"]),
    ]
    assert "5 of the 5 wrongly judged solutions" in made.text


def test_label_and_prediction_mark_their_steps(made):
    late, missed, early, alarm, _ = made.articles
    assert late.steps == [
        f"0.900 step 0 {EVIL} right",
        f"0.600 step 1 {EVIL} first wrong",
        f"0.400 step 2 {EVIL} predicted",  # what follows the first wrong step is nobody's claim
    ]
    assert missed.steps == [f"0.700 step 0 {EVIL} first wrong", f"0.600 step 1 {EVIL}"]
    assert "none is predicted" in missed.text
    assert early.steps == [f"0.100 step 0 {EVIL} right predicted", f"0.200 step 1 {EVIL} first wrong"]
    assert alarm.steps == [f"0.900 step 0 {EVIL} right", f"0.490 step 1 {EVIL} right predicted"]
    assert "no step is wrong" in alarm.text
    assert "threshold 0.500" in alarm.text
    assert [a.responses[0].title for a in (late, early)] == ["✗ wrong answer a model", "✓ right answer a model"]


def test_figure_table_and_notes_are_in_the_page(made):
    images = [dict(attributes)["src"] for tag, attributes in made.tags if tag == "img"]
    assert [image[:22] for image in images] == ["data:image/png;base64,"]
    assert "pb: 7 solutions of 7 problems, 5 erroneous" in made.text
    assert "PRM, step scores 20.0 [" in made.text  # one of the five erroneous ones
    assert "PRM, step scores: threshold 0.5, given" in made.text
    assert len(made.scripts) == 1


def test_subsets_alternate_and_can_be_filtered(tmp_path):
    rows = {"a": ROWS[:3], "b": [{**row, "id": f"b{row['id']}"} for row in ROWS[4:]]}
    made = _evaluate(tmp_path, rows)
    assert [article.tags for article in made.articles] == [
        ["too late", "a"],
        ["missed", "a"],
        ["missed", "b"],
        ["false alarm", "b"],
    ]
    assert {dict(a).get("data-tag") for tag, a in made.tags if tag == "button"} >= {"a", "b", "missed"}


def test_no_solutions_are_shown_if_all_are_judged_correctly(tmp_path):
    made = _evaluate(tmp_path, {"pb": [ROWS[0], ROWS[5]]})
    assert made.articles == []
    assert "0 of the 0 wrongly judged solutions" in made.text
