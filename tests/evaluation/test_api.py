"""evaluate() and evaluate_process_bench() with a user's own scorer, and equal to what the commands do."""

import json
import subprocess
import sys

import datasets
import pytest

from implicit_prm import ImplicitPRM, StepScores, evaluate
from implicit_prm.config import BestOfNConfig, ProcessBenchConfig
from implicit_prm.evaluation.api import evaluate_process_bench
from implicit_prm.evaluation.best_of_n.run import run_best_of_n
from implicit_prm.evaluation.process_bench.run import run_process_bench
from implicit_prm.types import ImplicitPRMError
from tests.conftest import graded_rows, write_rows

FAST = {"bootstrap_resamples": 50, "vote_draws": 20}
ROWS = [
    {
        "id": "one",
        "prompt": "1 + 1?",
        "answer": "2",
        "completions": ["\\boxed{3}", "so\n\\boxed{2}", "hm\nhm\n\\boxed{4}"],
        "orm": [0.2, 0.9, 0.1],
    },
    {
        "id": "two",
        "prompt": "2 + 2?",
        "answer": "4",
        "completions": ["\\boxed{4}", "thus\n\\boxed{5}", "hm\n\\boxed{6}"],
        "orm": [0.2, 0.9, 0.1],
    },
]


class LineCounter:
    """A scorer of ten lines: each line is a step, and later lines are worth less."""

    def __init__(self, fail_at=None):
        self.fail_at = fail_at

    def score(self, problem, responses):
        if problem == self.fail_at:
            raise RuntimeError("no more memory")
        return [StepScores(text, [], [1.0 / k for k in range(1, text.count("\n") + 2)]) for text in responses]


def test_a_scorer_of_ten_lines():
    """Problem one: the right response has two lines, of three; problem two: the right one is the shortest."""
    metrics = evaluate(ROWS, LineCounter(), **FAST)
    assert metrics["scorer"] == "LineCounter"
    assert metrics["accuracy"]["PRM, min of steps"]["3"]["value"] == 0.5  # the shortest: wrong, right
    assert metrics["accuracy"]["PRM, min of steps"]["1"]["value"] == pytest.approx(1 / 3)
    assert metrics["aggregates"]["sum"]["3"]["value"] == 0.0  # the longest
    assert evaluate(ROWS, LineCounter(), aggregate="sum", **FAST)["accuracy"]["PRM, sum of steps"]["3"]["value"] == 0.0


@pytest.mark.parametrize("kind", ["file", "dataset", "list"])
def test_candidates_from_a_file_a_dataset_or_a_list(kind, tmp_path):
    given = {
        "file": write_rows(tmp_path / "c.jsonl", ROWS),
        "dataset": datasets.Dataset.from_list(ROWS),
        "list": ROWS,
    }[kind]
    expected = evaluate(ROWS, LineCounter(), **FAST)
    found = evaluate(given, LineCounter(), **FAST)
    assert {**found, "config": None} == {**expected, "config": None}
    json.dumps(found)


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate(ROWS, LineCounter(), **FAST)
    assert not list(tmp_path.iterdir())
    metrics = evaluate(ROWS, LineCounter(), output_dir=tmp_path / "out", **FAST)
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("metrics.json", "scores.parquet", "accuracy.png", "report.html")
    }


def test_metrics_alone_need_neither_matplotlib_nor_pyarrow():
    code = """
import sys
from implicit_prm import StepScores, evaluate
class Zero:
    def score(self, problem, responses):
        return [StepScores(text, [], [0.0]) for text in responses]
rows = [{"prompt": "?", "answer": "1", "completions": ["1", "2"]}]
before = set(sys.modules)
evaluate(rows, Zero(), bootstrap_resamples=9, vote_draws=9)
print([name for name in ("matplotlib", "pyarrow") if name in set(sys.modules) - before or name in before])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_scores_of_an_object_are_computed_in_every_call(tmp_path):
    first = evaluate(ROWS, LineCounter(), output_dir=tmp_path, **FAST)
    scorer = LineCounter()
    scorer.score = lambda problem, responses: [StepScores(text, [], [float(len(text))]) for text in responses]
    second = evaluate(ROWS, scorer, output_dir=tmp_path, **FAST)
    assert first["accuracy"] != second["accuracy"]


def test_a_column_by_its_name():
    metrics = evaluate(ROWS, "orm", **FAST)
    assert metrics["scorer"] == "orm"
    assert metrics["accuracy"]["PRM, min of steps"]["3"]["value"] == 0.5
    assert metrics["steps"] == metrics["lowest_step"] == {}  # one number per response says nothing about steps


def _one_row_per_response(name):
    return [
        {"prompt": row["prompt"], "answer": row["answer"], name: text, "orm": score, "prm": [score, 1.0]}
        for row in ROWS
        for text, score in zip(row["completions"], row["orm"], strict=True)
    ]


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        (_one_row_per_response("completion"), "orm"),
        (_one_row_per_response("response"), "prm"),
        (
            [
                {
                    "problem": row["prompt"],
                    "answer": row["answer"],
                    "responses": [
                        {"text": text, "orm": score} for text, score in zip(row["completions"], row["orm"], strict=True)
                    ],
                }
                for row in ROWS
            ],
            "orm",
        ),
    ],
    ids=["completion", "response", "objects"],
)
def test_score_columns_of_every_row_format(rows, column):
    expected = evaluate(ROWS, "orm", **FAST)["accuracy"]
    assert evaluate(rows, column, **FAST)["accuracy"] == expected


def test_a_score_column_follows_the_responses_that_are_drawn():
    """Every score says which response it belongs to, so a pick is right if and only if its score is the largest."""
    rows = [
        {
            "id": str(n),
            "prompt": "?",
            "answer": "1",
            "completions": ["\\boxed{1}", *["\\boxed{2}"] * 7],
            "s": [0.9] + [0.1] * 7,
        }
        for n in range(20)
    ]
    for row in rows[::2]:
        row["completions"].reverse()
        row["s"].reverse()
    metrics = evaluate(rows, "s", max_responses=3, **FAST)
    assert metrics["responses"] == 60
    accuracy = metrics["accuracy"]
    assert accuracy["PRM, min of steps"]["3"]["value"] == accuracy["oracle (pass@N)"]["3"]["value"] > 0


def test_an_implicit_prm_is_evaluated_as_by_the_command(tmp_path, tiny_folder, other_folder, monkeypatch):
    monkeypatch.setenv("IPR_CACHE", str(tmp_path / "cache"))  # values of other batches are rounded differently
    candidates = write_rows(tmp_path / "candidates.jsonl", graded_rows(6, 4))
    options = {"steps": "newline", "reference": str(other_folder), "beta": 0.5}
    config = BestOfNConfig(
        checkpoint=str(tiny_folder), candidates=str(candidates), output_dir=str(tmp_path / "out"), **options, **FAST
    )
    expected = run_best_of_n(config, lambda *_: None)
    prm = ImplicitPRM.from_pretrained(tiny_folder, **options)
    found = evaluate(candidates, prm, **FAST)
    ignored = {"config": None, "scorer": None}
    assert found | ignored == expected | ignored
    assert evaluate(candidates, tiny_folder, **options, **FAST) | ignored == expected | ignored
    assert found["steps"]["first_wrong_steps"] > 0


def _process_bench_rows():
    rows = []
    for group in graded_rows(6, 3):
        for text, labels in zip(group["completions"], group["step_labels"], strict=True):
            label = labels.index(False) if False in labels else -1
            row = {"id": f"pb-{len(rows)}", "generator": "sandbox", "problem": group["prompt"], "label": label}
            steps = text.split("\n")
            scores = [0.1 if k == label else 0.9 for k in range(len(steps))]
            rows.append(row | {"steps": steps, "final_answer_correct": label == -1, "prm": scores})
    return rows


def test_process_bench_of_an_object_a_column_and_a_checkpoint(tmp_path, tiny_folder, other_folder):
    subset = str(write_rows(tmp_path / "pb.jsonl", _process_bench_rows()))
    options = {"reference": str(other_folder), "beta": 0.5}
    config = ProcessBenchConfig(
        checkpoint=str(tiny_folder),
        subsets=[subset],
        output_dir=str(tmp_path / "out"),
        bootstrap_resamples=20,
        **options,
    )
    expected = run_process_bench(config, lambda *_: None)
    prm = ImplicitPRM.from_pretrained(tiny_folder, steps="given", **options)
    ignored = {"config": None, "scorer": None}
    assert evaluate_process_bench(subset, prm, bootstrap_resamples=20) | ignored == expected | ignored
    perfect = evaluate_process_bench([subset], "prm", bootstrap_resamples=20)
    assert perfect["mean_f1"]["PRM, step scores"]["value"] == 1.0
    unsplit = ImplicitPRM.from_pretrained(tiny_folder, steps="blank_line", **options)
    unsplit.encoder.text.steps = "step_marker"
    with pytest.raises(ImplicitPRMError, match=r"pb-0.*given"):
        evaluate_process_bench(subset, unsplit, bootstrap_resamples=20)


@pytest.mark.parametrize(
    ("scorer", "options", "words"),
    [
        (LineCounter(), {"beta": 0.1}, "beta"),
        (LineCounter(), {"max_length": 9}, "max_length"),
        (LineCounter(), {"scores_kind": "log_ratio"}, "scores_kind"),
        (LineCounter(), {"aggregat": "min"}, "did you mean aggregate"),
        (LineCounter(), {"checkpoint": "x"}, "checkpoint"),
        (LineCounter(), {"too_long": "lowest"}, "too_long"),
        (LineCounter(), {"max_tokens_per_batch": 9}, "max_tokens"),
        (LineCounter(), {"over": "step_mean"}, "step"),
        (object(), {}, "score"),
        ("orn", {}, "orn"),
        (LineCounter(fail_at="2 + 2?"), {}, "two.*no more memory"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(scorer, options, words):
    with pytest.raises(ImplicitPRMError, match=words):
        evaluate(ROWS, scorer, **{**FAST, **options})
