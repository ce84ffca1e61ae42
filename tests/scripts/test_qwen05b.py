"""The stages and tables of the experiment on GSM8K, from made-up responses and results."""

from __future__ import annotations

import argparse
import json

import pytest
import qwen05b_figures
import qwen05b_gsm8k
import qwen05b_pairs
import qwen05b_report
from hydra.core.override_parser.overrides_parser import OverridesParser

from implicit_prm.config import ProblemsConfig
from implicit_prm.data.groups import load_groups, take_responses
from implicit_prm.scoring.store import write_scores
from implicit_prm.types import Group, StepScores
from implicit_prm.utils.io import write_json


@pytest.fixture
def options(tmp_path):
    rows = [
        {"id": str(place), "prompt": "?", "completions": ["a"] * len(labels), "correctness": labels}
        for place, labels in enumerate([[True, False, False], [False] * 3, [True] * 3, [False, True, False]])
    ]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return argparse.Namespace(out=tmp_path, model="model", data=tmp_path / "data", server=None)


def _finish_tuning(options):
    for accuracy, (beta, rate) in zip([0.5, 0.7], qwen05b_gsm8k.TRIED, strict=True):
        folder = options.out / f"tune-ce-{beta}-{rate:g}"
        folder.mkdir()
        (folder / "train_metrics.json").write_text(json.dumps({"eval_rewards/accuracies": accuracy}))


def test_models_are_trained_with_the_settings_that_were_best_on_dev_prompts(options):
    names = [stage.name for stage in qwen05b_gsm8k.stages(options)]
    assert len(names) == len(qwen05b_gsm8k.TRIED)
    assert all(name.startswith("tune") for name in names)
    _finish_tuning(options)
    listed = {stage.name: stage for stage in qwen05b_gsm8k.stages(options)}
    for name in ("ce", "dpo", "shuffled"):
        assert {"model.beta=0.05", "trainer.learning_rate=0.001"} < set(listed[name].arguments)


def test_explicit_models_are_evaluated_at_their_best_learning_rate(options):
    _finish_tuning(options)
    assert not any(stage.name == "orm on test_mixed" for stage in qwen05b_gsm8k.stages(options))
    best, _ = qwen05b_gsm8k.RATES["orm"]
    for accuracy, rate in zip([0.6, 0.5], qwen05b_gsm8k.RATES["orm"], strict=True):
        folder = options.out / f"orm-{rate:g}"
        folder.mkdir()
        write_json(folder / "train_metrics.json", {"eval_rewards/accuracies": accuracy})
    listed = {stage.name: stage for stage in qwen05b_gsm8k.stages(options)}
    assert f"checkpoint={options.out / f'orm-{best:g}'}" in listed["orm on test_mixed"].arguments


def test_two_responses_of_each_label_are_trained_on(tmp_path):
    row = {"prompt": [{}] * 5, "completions": list("abcde"), "correctness": [False, True, False, False, True]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert qwen05b_gsm8k.balanced(tmp_path / "rows.jsonl") == [
        row | {"completions": list("abce"), "correctness": [False, True, False, True]}
    ]


def test_the_control_keeps_the_number_of_correct_responses(options):
    list(qwen05b_gsm8k.stages(options))
    rows = {
        name: [json.loads(line) for line in (options.out / f"{name}.jsonl").read_text().splitlines()]
        for name in ("balanced", "shuffled")
    }
    assert [row["id"] for row in rows["balanced"]] == ["0", "3"]
    assert [sum(row["correctness"]) for row in rows["shuffled"]] == [1, 1]


def test_no_model_is_tested_on_steps_of_problems_that_pool_models_are_trained_on(tmp_path):
    prompts = [qwen05b_gsm8k.TEMPLATE.replace("{problem}", text) for text in ("1 + 1?", "1 + 2?")]
    rows = [{"prompt": [{"role": "user", "content": prompt}]} for prompt in prompts]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bench = [{"problem": text, "label": -1} for text in ("1 + 2?", "1 + 3?")]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bench))
    assert qwen05b_gsm8k.unseen(tmp_path / "bench.jsonl", tmp_path / "train.jsonl") == bench[1:]


def test_problems_of_math_have_both_kinds_of_responses_among_those_that_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(qwen05b_gsm8k, "MATH_PROBLEMS", 1)
    labels = [[True] * 9, [False] * 9, [True, False] * 5, [True, False] * 4]
    rows = [
        {"problem_id": str(place), "problem": "?", "answer": "1", "responses": ["a"] * len(some), "correct": some}
        for place, some in enumerate(labels)
    ]
    (tmp_path / "math.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = qwen05b_gsm8k.math_rows(tmp_path / "math.jsonl")
    assert found["id"] == "2"
    assert len(found["completions"]) == len(found["correctness"]) == 8
    assert found["prompt"] == [{"role": "user", "content": qwen05b_gsm8k.TEMPLATE.replace("{problem}", "?")}]


def test_a_score_that_knows_the_model_alone(tmp_path):
    rows = {
        "train": [
            {"prompt": "?", "completions": list("abc"), "correctness": [True, True, False], "models": list("xyz")}
        ],
        "held_out": [
            {"prompt": "!", "completions": list("ab"), "correctness": [True, False], "models": ["x", "z"]},
            {"prompt": ".", "completions": list("ab"), "correctness": [True, False], "models": ["x", "y"]},
        ],
    }
    for name, some in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    found = qwen05b_pairs.generators(tmp_path / "train.jsonl", tmp_path / "held_out.jsonl", None)
    assert (found["value"], found["problems"]) == (0.75, 2)


def test_bare_problems_get_the_prompt_that_was_trained_on(options):
    value = OverridesParser.create().parse_overrides([qwen05b_gsm8k.PROMPT])[0].value()
    assert value == ProblemsConfig.prompt_template
    stage = qwen05b_gsm8k.process_bench("ce", options.out / "bench.jsonl", options)
    assert qwen05b_gsm8k.PROMPT in stage.arguments


def _scores(labels, noise):
    """A model that scores correct responses higher by 1, plus `noise`."""
    return [
        StepScores("a", [], [label + more], [label + more], index=place)
        for place, (label, more) in enumerate(zip(labels, noise, strict=True))
    ]


def test_models_are_compared_on_the_responses_that_both_have_scored(tmp_path):
    labels = [[True, False, False, True], [False, True, False, False]]
    rows = [
        {"id": str(place), "prompt": "?", "completions": list("abcd"), "correctness": some}
        for place, some in enumerate(labels)
    ]
    path = tmp_path / "test_mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = load_groups(str(path))
    write_scores(groups, [_scores(some, [0, 0, 0, 0]) for some in labels], tmp_path / "ce")
    drawn = take_responses(groups, 3)
    # The control prefers incorrect responses.
    write_scores(
        drawn,
        [_scores(group.correctness, [-2.0 * label for label in group.correctness]) for group in drawn],
        tmp_path / "shuffled",
    )
    folders = {"ce": tmp_path / "ce", "shuffled": tmp_path / "shuffled"}
    found = qwen05b_pairs.compare(path, folders, {"ce": None, "shuffled": 3})
    both = sum(len(set(group.correctness)) == 2 for group in drawn)
    assert [row["models"] for row in found] == [("ce", "shuffled")] * 2
    assert {row["auroc"]["value"] for row in found} == {1.0}
    assert {row["auroc"]["problems"] for row in found} == {both}
    assert {row["best"]["value"] for row in found} == {both / 2}


def test_models_of_about_the_same_accuracy_are_peers(tmp_path):
    """x and y are always right in training, z never is: the pair of x and z, which style decides, does not count."""
    train = {"id": "t", "prompt": "?", "completions": list("abc"), "correctness": [True, True, False], "models": "xyz"}
    held_out = {
        "id": "h",
        "prompt": "!",
        "completions": list("abc"),
        "correctness": [True, False, False],
        "models": "xyz",
    }
    for name, row in (("train", train), ("held_out", held_out)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row | {"models": list(row["models"])}))
    path = tmp_path / "held_out.jsonl"
    scores = [_scores(held_out["correctness"], [0.0, 2.0, -1.0])]  # wrong of the peers, right of x and z
    write_scores(load_groups(str(path)), scores, tmp_path / "ce")
    found = qwen05b_pairs.among_peers(tmp_path / "train.jsonl", path, {"ce": tmp_path / "ce"}, {})
    values = [
        (row["model"], row["auroc"]["value"], row["difference"]["value"], row["auroc"]["problems"]) for row in found
    ]
    assert values == [("which model wrote it", 0.5, 0.0, 1), ("ce", 0.0, -0.5, 1), ("ce", 0.0, -0.5, 1)]


@pytest.mark.parametrize(("kind", "expected"), [("log_ratio", 1.5), ("probability", 0.5)])
def test_outcome_of_implicit_and_explicit_models(kind, expected):
    scores = StepScores("ab", [], [1.0, 0.5], kind=kind)
    assert qwen05b_pairs.value(scores, "outcome") == expected
    assert qwen05b_pairs.value(scores, "lowest step") == 0.5


def test_the_figure_shows_no_response_that_was_cut_off():
    group = Group("0", "?", ["a", "b"], [True, False], finished=[True, False])
    assert qwen05b_figures.selected(group, _scores([0, 1], [0, 0])).index == 0


def _metrics(name, sizes, interval):
    largest, row = str(sizes[-1]), "PRM, min of steps"
    return {
        "problems": 2,
        "responses": 6,
        "cut_off_responses": 1,
        "unanswered_responses": 1,
        "sizes": sizes,
        "accuracy": {row: {largest: interval}, "random pick": {largest: interval}},
        "difference": {f"{row} - random pick": {largest: {"value": 0.1, "low": 0.0, "high": 0.2}}},
        "within_problem_auroc": {row: {**interval, "problems": 2}},
        "length": {
            "shortest": {**interval, "problems": 2},
            "scores": {row: {"within_problems": interval, "auroc_matched": interval}},
        },
        "token_rewards": {"classes": {"digits": {"magnitude": interval, "tokens": interval}}} if name == "ce" else {},
        "config": {"max_responses": None},
    }


def test_tables_of_what_there_is(options, capsys, monkeypatch):
    interval = {"value": 0.5, "low": 0.25, "high": 0.75}
    for name, sizes in (("ce", [1, 4]), ("pool-dpo", [1, 2])):
        write_json(options.out / name / "eval-test_mixed" / "metrics.json", _metrics(name, sizes, interval))
    write_json(options.out / "stages" / "ce.json", {"seconds": 7200, "cpu_seconds": 3600, "host_gb": 2.0})
    _finish_tuning(options)
    monkeypatch.setattr("sys.argv", ["qwen05b_report.py", "--out", str(options.out)])
    monkeypatch.setattr(qwen05b_report, "compare", lambda *_: [])
    qwen05b_report.main()
    written = capsys.readouterr().out
    assert "| train | 4 | 12 | 41.7 % | 2 | 0.0 % |" in written
    assert "| 0.05 | 0.001 | 0.700 | yes |" in written
    assert "| ce: PRM, min of steps | 2 | 0.500 [0.250, 0.750] | 0.500 [0.250, 0.750] |" in written
    # Of the 4 test problems, one has only correct responses and one only incorrect ones.
    best = "| ce: PRM, min of steps | 4 | 50.0 [25.0, 75.0] |  | +10.0 [0.0, 20.0] | 50.0 [37.5, 62.5] |"
    assert best in written
    assert "| pool-dpo: PRM, min of steps | 2 | 50.0 [25.0, 75.0] |" in written
    assert "| ce | 50.0 [25.0, 75.0] |" in written
    assert "| ce | 120 | 60 | 2.0 |" in written
