"""ProcessBench runs: metrics by hand, thresholds that ignore the reported rows, and a model."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from implicit_prm import ImplicitPRM
from implicit_prm.config import ProcessBenchConfig
from implicit_prm.evaluation.process_bench import figures, report, run
from implicit_prm.evaluation.process_bench import thresholds as th
from implicit_prm.evaluation.process_bench.run import FOLDS, fold_of_problem, run_process_bench
from implicit_prm.evaluation.statistics import clustered_ratio
from implicit_prm.types import ImplicitPRMError
from tests.conftest import graded_rows, write_rows


def _row(number, label, scores, **changes):
    return {
        "id": f"pb-{number}",
        "generator": "AB"[number % 2],
        "problem": f"problem {number}?",
        "steps": [f"step {k}" for k in range(len(scores))],
        "final_answer_correct": label == -1,
        "label": label,
        "scores": scores,
        **changes,
    }


# With threshold 0.5: right, too early, right, missed | kept, flagged, kept. Accuracies 2/4 and 2/3.
ROWS = [
    _row(0, 1, [0.9, 0.2]),
    _row(1, 1, [0.4, 0.1]),
    _row(2, 0, [0.3, 0.1, 0.9], final_answer_correct=True),
    _row(3, 2, [0.9, 0.8, 0.7]),
    _row(4, -1, [0.5]),
    _row(5, -1, [0.9, 0.49]),
    _row(6, -1, [0.9, 0.8]),
]


def _random_rows(count, seed):
    """Rows with a weak signal, two solutions of a problem in one case of four."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        size = int(rng.integers(2, 6))
        label = int(rng.integers(0, size)) if rng.random() < 0.5 else -1
        scores = rng.random(size)
        if label >= 0:
            scores[label] *= 0.5
        problem = f"{seed}: problem {number - (number % 4 == 1)}?"
        rows.append(_row(number, label, scores.tolist(), problem=problem))
    return rows


def _evaluate(tmp_path, rows, figure=False, **options):
    files = [str(write_rows(tmp_path / f"{name}.jsonl", some)) for name, some in rows.items()]
    options = {"output_dir": str(tmp_path / "out"), "scores_column": "scores", "bootstrap_resamples": 50, **options}
    with pytest.MonkeyPatch.context() as patch:
        if not figure:  # drawing takes longer than all the rest
            patch.setattr(run, "write_results", lambda *_: None)
        return run_process_bench(ProcessBenchConfig(subsets=files, **options), lambda *_: None)


def _value(result, key):
    return result[key]["value"]


def test_every_figure_by_hand(tmp_path):
    metrics = _evaluate(tmp_path, {"pb": ROWS}, threshold=0.5, figure=True)
    row = metrics["subsets"]["pb"]
    assert (row["problems"], row["solutions"], row["erroneous"], row["unscored"]) == (7, 7, 4, 0)
    prm = row["results"]["PRM, step scores"]
    assert prm["threshold"] == {"fitted_on": None, "value": 0.5, "lowest": 0.5, "highest": 0.5}
    assert _value(prm, "accuracy_erroneous") == pytest.approx(2 / 4)
    assert _value(prm, "accuracy_correct") == pytest.approx(2 / 3)
    assert _value(prm, "f1") == pytest.approx(4 / 7)
    assert not metrics["bootstrap"]["threshold_refitted"]

    none, last = row["results"]["no step is wrong"], row["results"]["the last step is wrong"]
    assert [_value(none, key) for key in ("accuracy_erroneous", "accuracy_correct", "f1")] == [0, 1, 0]
    assert [_value(last, key) for key in ("accuracy_erroneous", "accuracy_correct", "f1")] == [3 / 4, 0, 0]
    mean = (1 / 2 + 1 / 2 + 1 / 3 + 1 / 3) / 4
    best = max(2 * p * (1 - p) * mean / (p + (1 - p) * mean) for p in np.linspace(0.001, 0.999, 999))
    assert _value(row["results"]["best blind guess"], "f1") == pytest.approx(best, abs=1e-5)

    assert row["by_final_answer"]["correct"]["erroneous"] == 1
    assert _value(row["by_final_answer"]["correct"], "accuracy_erroneous") == 1.0
    assert _value(row["by_final_answer"]["incorrect"], "accuracy_erroneous") == pytest.approx(1 / 3)
    assert _value(row["by_final_answer"]["incorrect"], "f1") is None  # all of them are erroneous
    assert row["by_generator"]["A"]["solutions"] == 4
    assert _value(row["by_generator"]["A"], "accuracy_correct") == 1.0
    assert row["steps"]["first_wrong_steps"] == 4
    assert _value(row["steps"], "first_error_found") == pytest.approx(3 / 4)

    assert json.loads((tmp_path / "out/metrics.json").read_text(), parse_constant=pytest.fail) == metrics
    lines = [json.loads(line) for line in (tmp_path / "out/pb/predictions.jsonl").read_text().splitlines()]
    assert [line["prediction"] for line in lines] == [1, 0, 0, -1, -1, 1, -1]
    assert [line["label"] for line in lines] == [1, 1, 0, 2, -1, -1, -1]
    assert (tmp_path / "out/trade_off.png").stat().st_size > 10_000
    assert (tmp_path / "out/report.html").stat().st_size > 10_000
    assert pq.read_table(tmp_path / "out/pb/scores.parquet").num_rows == 7


def test_threshold_from_another_subset_ignores_the_reported_rows(tmp_path):
    rows = {"a": _random_rows(60, 1), "b": _random_rows(60, 2)}
    before = _evaluate(tmp_path, rows, threshold="a")["subsets"]
    assert before["b"]["results"]["PRM, step scores"]["threshold"]["fitted_on"] == "a"
    assert before["a"]["results"]["PRM, step scores"]["threshold"]["folds"] == 10
    for row in rows["b"]:
        row["label"] = -1 if row["label"] >= 0 else 0
    after = _evaluate(tmp_path, rows, threshold="a")["subsets"]
    assert after["a"] == before["a"]
    changed, kept = (part["b"]["results"]["PRM, step scores"] for part in (after, before))
    assert changed["threshold"] == kept["threshold"]
    assert changed["f1"] != kept["f1"]


def test_cross_fitted_threshold_ignores_its_own_problem(tmp_path):
    """Turn the labels of one problem's solutions: their own threshold stays, as the rows of other folds may not."""
    rows = _random_rows(40, 5)
    moved = 0
    for number in (0, 4, 8):  # each the first of two solutions of its problem
        before = _thresholds(tmp_path, rows)
        turned = [
            {**row, "label": -1 if row["label"] >= 0 else 0} if n - number in (0, 1) else row
            for n, row in enumerate(rows)
        ]
        after = _thresholds(tmp_path, turned)
        here = [f"pb-{number}", f"pb-{number + 1}"]
        assert before[here[0]] == before[here[1]]
        assert [after[name] for name in here] == [before[name] for name in here]
        moved += before != after
    assert moved


def _thresholds(tmp_path, rows):
    _evaluate(tmp_path, {"pb": rows})
    lines = map(json.loads, (tmp_path / "out/pb/predictions.jsonl").read_text().splitlines())
    return {line["id"]: line["threshold"] for line in lines}


def test_intervals_resample_problems(tmp_path):
    """With a given threshold an accuracy is a ratio of sums over problems, of which statistics.py has the bootstrap."""
    rows = _random_rows(40, 6)
    result = _evaluate(tmp_path, {"pb": rows}, threshold=0.3, seed=7)["subsets"]["pb"]["results"]["PRM, step scores"]
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    right, wrong = np.zeros(len(problems)), np.zeros(len(problems))
    for row in rows:
        if row["label"] >= 0:
            right[problems.index(row["problem"])] += th.predict(row["scores"], 0.3) == row["label"]
            wrong[problems.index(row["problem"])] += 1
    assert max(wrong) == 2
    expected = clustered_ratio(right, wrong, resamples=50, seed=7)
    assert result["accuracy_erroneous"] == pytest.approx(vars(expected))


def test_intervals_include_the_uncertainty_of_the_threshold(tmp_path):
    """The same threshold, once fitted on another subset and once given: the same F1, but not the same interval."""
    rows = {"a": _random_rows(40, 1), "b": _random_rows(40, 2)}
    fitted = _evaluate(tmp_path, rows, threshold="a")["subsets"]["b"]["results"]["PRM, step scores"]
    value = fitted["threshold"]["value"]
    given = _evaluate(tmp_path, rows, threshold=value)["subsets"]["b"]["results"]["PRM, step scores"]
    assert fitted["f1"]["value"] == given["f1"]["value"]
    assert (fitted["f1"]["low"], fitted["f1"]["high"]) != (given["f1"]["low"], given["f1"]["high"])


def test_problems_of_the_reported_subset_are_left_out_of_the_other(tmp_path):
    """Subset b holds problems of a, with labels that would move the threshold: a's threshold must not follow them."""
    theirs, shared = _random_rows(40, 3), _random_rows(20, 4)
    turned = [
        {**row, "problem": row["problem"] + " ", "label": 0, "scores": [0.99] * len(row["steps"])} for row in shared
    ]
    mixed = [{**row, "id": f"m{n}"} for n, row in enumerate(theirs + turned)]
    clean = _evaluate(tmp_path, {"a": shared, "b": theirs}, threshold="b")["subsets"]["a"]["results"]
    found = _evaluate(tmp_path, {"a": shared, "b": mixed}, threshold="b")["subsets"]["a"]["results"]
    here, there = found["PRM, step scores"]["threshold"], clean["PRM, step scores"]["threshold"]
    assert here["value"] == there["value"]
    assert (here["fitted_on"], here["left_out_problems"], there["left_out_problems"]) == ("b", 15, 0)


def test_solutions_of_a_problem_share_a_fold_and_folds_are_even():
    folds = fold_of_problem(95, seed=3)
    assert len(folds) == 95
    assert sorted(np.bincount(folds)) == [9] * 5 + [10] * 5
    assert (folds == fold_of_problem(95, seed=3)).all()
    assert len(np.unique(fold_of_problem(4, seed=0))) == 4 < FOLDS


def test_log_ratio_scores_have_step_and_prefix_values(tmp_path):
    rows = [_row(0, 1, [1.0, -3.0]), _row(1, 0, [-2.0, 1.0]), _row(2, -1, [2.0, -1.0]), _row(3, -1, [0.5])]
    options = {"scores_kind": "log_ratio", "threshold": -0.5}
    step = _evaluate(tmp_path, {"pb": rows}, **options)["subsets"]["pb"]["results"]["PRM, step scores"]
    assert [_value(step, key) for key in ("accuracy_erroneous", "accuracy_correct")] == [1.0, 0.5]
    prefix = _evaluate(tmp_path, {"pb": rows}, over="prefix", **options)["subsets"]["pb"]
    read = prefix["results"]["PRM, prefix values"]
    assert [_value(read, key) for key in ("accuracy_erroneous", "accuracy_correct")] == [1.0, 1.0]
    assert "PRM, step scores" not in prefix["results"]  # the given number is in the units of one reading
    both = _evaluate(tmp_path, {"pb": rows}, scores_kind="log_ratio", threshold="cross_fit")
    assert {"PRM, step scores", "PRM, prefix values"} < set(both["mean_f1"])


@pytest.mark.parametrize(("keep", "missing"), [(range(4), "none"), (range(4, 7), "a wrong step")])
def test_f1_is_undefined_without_one_of_the_kinds(tmp_path, keep, missing):
    rows = [ROWS[n] for n in keep]
    metrics = _evaluate(tmp_path, {"pb": rows}, threshold=0.5)
    assert _value(metrics["subsets"]["pb"]["results"]["PRM, step scores"], "f1") is None
    assert metrics["mean_f1"]["PRM, step scores"]["value"] is None
    console = Console(width=80, record=True)
    report.print_metrics(metrics, console)
    assert f"F1 is undefined: no solution with {missing}" in console.export_text()
    with pytest.raises(ImplicitPRMError, match="pb: no threshold can be fitted"):
        _evaluate(tmp_path, {"pb": rows})


def test_the_table_prints_at_80_columns(tmp_path):
    rows = {"gsm8k": _random_rows(60, 1), "math": _random_rows(60, 2)}
    console = Console(width=80, record=True)
    report.print_metrics(_evaluate(tmp_path, rows, threshold="gsm8k"), console)
    text = console.export_text()
    assert "ProcessBench math: accuracy (%) on 60 solutions" in text
    assert ", cross-fitted on gsm8k\n" in text
    assert ", fitted on gsm8k\n" in text
    assert "mean F1 of the 2 subsets, PRM, step scores" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_figure_marks_every_subset(tmp_path):
    metrics = _evaluate(tmp_path, {"pb": ROWS}, threshold=0.5)
    axes = figures.trade_off_figure(metrics, {"pb": (np.array([0.0, 1.0]), np.array([1.0, 0.0]))}).axes[0]
    assert axes.get_xlabel() == "accuracy on correct solutions (%)"
    assert axes.get_legend_handles_labels()[1] == ["pb: F1 57.1"]


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([0.1], "pb-0.* 2 .*scores.* 1"),
        ([], "pb-0.* 2 .* 0"),
        ([0.1, 1.5], "pb-0, response 0, column scores.*1.5"),
        (None, "pb-0.* 2 .* 0"),
    ],
)
def test_scores_that_do_not_fit_the_steps_are_named(tmp_path, scores, words):
    with pytest.raises(ImplicitPRMError, match=words):
        _evaluate(tmp_path, {"pb": [{**ROWS[0], "scores": scores}, *ROWS[1:]]}, threshold=0.5)
    with pytest.raises(ImplicitPRMError, match="mine"):
        _evaluate(tmp_path, {"pb": ROWS}, threshold=0.5, scores_column="mine")


def test_max_problems_draws_at_random(tmp_path):
    rows = sorted(_random_rows(60, 1), key=lambda row: row["label"] == -1)
    row = _evaluate(tmp_path, {"pb": rows}, max_problems=20, threshold=0.5)["subsets"]["pb"]
    assert row["problems"] == 20
    assert 4 < row["erroneous"] < row["solutions"] - 4


@pytest.fixture(scope="module")
def sandbox_rows():
    """Sandbox solutions in the official columns."""
    rows = []
    for group in graded_rows(6, 2):
        for place, text in enumerate(group["completions"]):
            labels = group["step_labels"][place]
            label = labels.index(False) if False in labels else -1
            changes = {"steps": text.split("\n"), "final_answer_correct": group["correctness"][place]}
            rows.append(_row(len(rows), label, [], problem=group["prompt"], **changes))
    return rows


def test_a_checkpoint_scores_the_given_steps_and_the_end_of_turn(tmp_path, tiny_folder, other_folder, sandbox_rows):
    options = {"checkpoint": str(tiny_folder), "reference": str(other_folder), "beta": 0.5, "scores_column": None}
    metrics = _evaluate(tmp_path, {"pb": sandbox_rows}, threshold=0.0, **options)
    assert metrics["subsets"]["pb"]["problems"] == 6
    lines = [json.loads(line) for line in (tmp_path / "out/pb/predictions.jsonl").read_text().splitlines()]
    prm = ImplicitPRM.from_pretrained(tiny_folder, str(other_folder), 0.5, steps="given")
    for line, row in zip(lines, sandbox_rows, strict=True):
        assert line["id"] == row["id"]
        text = "\n\n".join(row["steps"])
        (score,) = prm.score(row["problem"], [text], given_steps=[row["steps"]])
        assert line["values"] == pytest.approx(score.step_rewards, abs=1e-5)
        assert len(score.token_rewards) == len(prm.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
        assert math.fsum(line["values"]) == pytest.approx(math.fsum(score.token_rewards), abs=1e-5)


def test_another_threshold_or_reading_costs_no_forward_pass(tmp_path, tiny_folder, sandbox_rows, monkeypatch):
    options = {"checkpoint": str(tiny_folder), "reference": "none", "beta": 1.0, "scores_column": None}
    _evaluate(tmp_path, {"pb": sandbox_rows}, threshold=0.0, **options)
    monkeypatch.setattr(ImplicitPRM, "score", lambda *_, **__: pytest.fail("scored again"))
    _evaluate(tmp_path, {"pb": sandbox_rows}, threshold=-20.0, over="prefix", **options)


def test_step_means_are_reported_separately(tmp_path, tiny_folder, sandbox_rows):
    options = {"checkpoint": str(tiny_folder), "reference": "none", "beta": 1.0, "scores_column": None}
    metrics = _evaluate(tmp_path, {"pb": sandbox_rows}, over="step_mean", **options)
    assert metrics["values"] == "PRM, step means"
    assert {"PRM, step scores", "PRM, step means", "PRM, prefix values"} < set(metrics["mean_f1"])
    lines = [json.loads(line) for line in (tmp_path / "out/pb/predictions.jsonl").read_text().splitlines()]
    rows = pq.read_table(tmp_path / "out/pb/scores.parquet").to_pylist()
    for line, row in zip(lines, rows, strict=True):
        means = [reward / tokens for reward, tokens in zip(row["step_rewards"], row["step_tokens"], strict=True)]
        assert line["values"] == pytest.approx(means)


def test_what_is_too_long_stops_the_run_or_counts_as_wrong(tmp_path, tiny_folder, sandbox_rows):
    rows = [{**sandbox_rows[0], "steps": ["1 + 1 = 2"] * 80, "label": -1}, *sandbox_rows[1:]]
    options = {"checkpoint": str(tiny_folder), "reference": "none", "beta": 1.0, "scores_column": None}
    with pytest.raises(ImplicitPRMError, match="too_long"):
        _evaluate(tmp_path, {"pb": rows}, threshold=-1e6, **options)
    row = _evaluate(tmp_path, {"pb": rows}, threshold=-1e6, too_long="wrong", **options)["subsets"]["pb"]
    assert row["unscored"] == 1
    kept = row["results"]["PRM, step scores"]  # a threshold that calls nothing wrong: all but the one not scored
    correct = kept["solutions"] - kept["erroneous"]
    assert _value(kept, "accuracy_correct") == pytest.approx((correct - 1) / correct)
