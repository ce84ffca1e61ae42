"""Runs of PRMBench and Hard2Verify on hand-worked rows, and on a model."""

import json

import numpy as np
import pytest

from implicit_prm import StepScores, evaluate_hard2verify, evaluate_prmbench
from implicit_prm.config import Hard2VerifyConfig, PRMBenchConfig
from implicit_prm.evaluation.step_benchmarks import report
from implicit_prm.evaluation.step_benchmarks.run import run_step_benchmark
from implicit_prm.types import ImplicitPRMError
from tests.conftest import write_rows
from tests.data.test_step_benchmarks import encrypted, hard2verify_row, prmbench_row
from tests.pages import Page

# With threshold 0.5: right, wrong, a right step called wrong | a wrong step called right, wrong | right, right.
PRMBENCH = [
    prmbench_row(1, [2], scores=[0.9, 0.2, 0.4]),
    prmbench_row(2, [1, 2], 2, idx="d", classification="deception", scores=[0.6, 0.1]),
    prmbench_row(3, [], 2, idx="m", classification="multi_solutions", scores=[0.9, 0.8]),
]
HARD2VERIFY = [
    hard2verify_row(1, [1, 0, 0], scores=[0.9, 0.3, 0.7]),
    hard2verify_row(2, [1, 1], scores=[0.8, 0.9]),
    hard2verify_row(3, [1, 1], scores=[0.4, 0.9]),
    hard2verify_row(4, [0, 1], scores=[0.2, 0.8]),
]
COLUMN = {"scores_column": "scores", "bootstrap_resamples": 20}


def _run(cls, tmp_path, rows, **options):
    dataset = str(write_rows(tmp_path / "rows.jsonl", rows))
    return run_step_benchmark(cls(dataset=dataset, output_dir=str(tmp_path / "out"), **options), lambda *_: None)


def _values(row):
    return {name: one["value"] for name, one in row.items()}


def test_prmbench_by_hand(tmp_path, capsys):
    metrics = _run(PRMBenchConfig, tmp_path, PRMBENCH, threshold=0.5, **COLUMN)
    assert (metrics["solutions"], metrics["steps"], metrics["wrong_steps"], metrics["problems"]) == (3, 7, 3, 3)
    found = _values(metrics["results"]["PRM, step scores"])
    assert found == pytest.approx({"PRMScore": (3 / 4 + 2 / 3) / 2, "F1": 3 / 4, "negative F1": 2 / 3})
    assert _values(metrics["classes"]) == pytest.approx({"circular": 2 / 3, "deception": 2 / 3, "multi_solutions": 1.0})
    all_right = _values(metrics["results"]["every step is right"])
    assert all_right == pytest.approx({"PRMScore": 4 / 11, "F1": 8 / 11, "negative F1": 0.0})
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    lines = (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {
        **{"id": "d", "class": "deception", "labels": [False, False], "values": [0.6, 0.1], "threshold": 0.5},
    }
    report.print_metrics(metrics)
    for text in (capsys.readouterr().out, Page((tmp_path / "out/report.html").read_text()).text):
        assert "PRMScore" in text
        assert "multi_solutions" in text


def test_hard2verify_by_hand(tmp_path):
    rows = [encrypted({key: value for key, value in row.items() if key != "scores"}) for row in HARD2VERIFY]
    rows = [{**hidden, "scores": row["scores"]} for hidden, row in zip(rows, HARD2VERIFY, strict=True)]
    metrics = _run(Hard2VerifyConfig, tmp_path, rows, threshold=0.5, **COLUMN)
    assert _values(metrics["results"]["PRM, step scores"]) == pytest.approx(
        {"steps": 20 / 27, "right steps": 5 / 6, "wrong steps": 2 / 3, "solutions": 2 / 3, "first wrong step": 2 / 3}
    )
    assert metrics["results"]["every step is right"]["steps"]["value"] == 0.0
    assert list(metrics["classes"]) == ["all"]


def test_noise_gains_nothing_from_fitting(tmp_path):
    """Random scores: balanced F1 about one half, as of a coin, and no threshold is fitted on the rows it judges."""
    rng = np.random.default_rng(0)
    rows = [
        hard2verify_row(number, [int(one) for one in rng.integers(0, 2, 6)], scores=rng.random(6).tolist())
        for number in range(80)
    ]
    metrics = _run(Hard2VerifyConfig, tmp_path, rows, **COLUMN)
    assert metrics["threshold"]["cross_fitted"]
    assert 0.4 < metrics["results"]["PRM, step scores"]["steps"]["value"] < 0.55
    assert metrics["step_auroc"]["low"] < 0.5 < metrics["step_auroc"]["high"]
    assert metrics["difference"]["position of the step"]["low"] < 0.1


def test_what_cannot_be_judged_is_refused(tmp_path):
    with pytest.raises(ImplicitPRMError, match="threshold"):
        _run(PRMBenchConfig, tmp_path, PRMBENCH[2:], **COLUMN)
    short = [{**PRMBENCH[0], "scores": [0.1]}, *PRMBENCH[1:]]
    with pytest.raises(ImplicitPRMError, match=r"circular_1: expected 3 scores"):
        _run(PRMBenchConfig, tmp_path, short, **COLUMN)
    fixed = _run(PRMBenchConfig, tmp_path, PRMBENCH[2:], threshold=0.5, **COLUMN)
    assert _values(fixed["results"]["PRM, step scores"])["PRMScore"] == 1.0
    with pytest.raises(ImplicitPRMError, match="nan"):
        _run(PRMBenchConfig, tmp_path, PRMBENCH, threshold=float("nan"), **COLUMN)


def test_a_model(tmp_path, tiny_folder, other_folder):
    rows = [{key: value for key, value in row.items() if key != "scores"} for row in PRMBENCH]
    options = {"checkpoint": str(tiny_folder), "reference": str(other_folder), "beta": 1.0}
    metrics = _run(PRMBenchConfig, tmp_path, rows, over="prefix", bootstrap_resamples=20, **options)
    assert "PRM, prefix values" in metrics["results"]
    options |= {"max_length": 2, "too_long": "wrong", "threshold": 0.0}
    cut = _run(PRMBenchConfig, tmp_path, rows, bootstrap_resamples=20, **options)
    assert cut["unscored"] == 3
    assert cut["results"]["PRM, step scores"]["PRMScore"]["value"] == 0.0


class Lengths:
    """A scorer of the given steps: the longer, the better."""

    def score(self, problem, responses, given_steps):
        return [
            StepScores(text, [], [float(len(step)) for step in steps])
            for text, steps in zip(responses, given_steps, strict=True)
        ]


def test_any_scorer_from_python(tmp_path):
    dataset = str(write_rows(tmp_path / "rows.jsonl", PRMBENCH))
    options = {"dataset": dataset, "threshold": 6.5, "bootstrap_resamples": 20}
    found = evaluate_prmbench(Lengths(), **options)  # "step 1" has six letters: every step is judged wrong
    assert found["results"]["PRM, step scores"]["F1"]["value"] == 0.0
    by_column = evaluate_prmbench("scores", **(options | {"threshold": 0.5}))
    assert by_column["results"]["PRM, step scores"]["F1"]["value"] == pytest.approx(3 / 4)


class UpToTwoSteps(Lengths):
    """Refuses solutions of more than two steps, and calls every step right."""

    limit_tokens = 2

    def lengths(self, problem, responses, finished, given_steps):
        return list(map(len, given_steps))


def test_a_solution_that_is_not_scored_is_judged_wrongly(tmp_path):
    """Also the whole of it, although its right step, judged wrongly, would make it an erroneous solution."""
    rows = [hard2verify_row(1, [1, 0, 0]), hard2verify_row(2, [1, 1])]
    dataset = str(write_rows(tmp_path / "rows.jsonl", rows))
    options = {"threshold": 0.0, "too_long": "wrong", "bootstrap_resamples": 20}
    metrics = evaluate_hard2verify(UpToTwoSteps(), dataset=dataset, **options)
    assert metrics["unscored"] == 1
    assert metrics["results"]["PRM, step scores"]["solutions"]["value"] == 0.0


def test_all_intervals_have_the_resamples_that_were_asked_for(tmp_path):
    metrics = _run(Hard2VerifyConfig, tmp_path, HARD2VERIFY, threshold=0.5, **(COLUMN | {"bootstrap_resamples": 1}))
    assert metrics["step_auroc"]["low"] == metrics["step_auroc"]["high"]
