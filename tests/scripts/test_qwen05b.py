"""The stages and tables of the experiment on GSM8K, from made-up responses and results."""

from __future__ import annotations

import argparse
import json

import pytest
import qwen05b_gsm8k
import qwen05b_report

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
        (folder / "log.jsonl").write_text(json.dumps({"eval_rewards/accuracies": accuracy}) + "\n")
        (folder / "train_metrics.json").write_text("{}")


def test_models_are_trained_with_the_settings_that_were_best_on_dev_prompts(options):
    names = [stage.name for stage in qwen05b_gsm8k.stages(options)]
    assert len(names) == len(qwen05b_gsm8k.TRIED)
    assert all(name.startswith("tune") for name in names)
    _finish_tuning(options)
    listed = {stage.name: stage for stage in qwen05b_gsm8k.stages(options)}
    for name in ("ce", "dpo", "shuffled"):
        assert {"model.beta=0.05", "trainer.learning_rate=0.001"} < set(listed[name].arguments)


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


def test_tables_of_what_there_is(options, capsys, monkeypatch):
    interval = {"value": 0.5, "low": 0.25, "high": 0.75}
    accuracy = {"PRM, min of steps": {"4": interval}, "random pick": {"4": interval}}
    write_json(
        options.out / "ce" / "eval-test_mixed" / "metrics.json",
        {
            "problems": 2,
            "responses": 6,
            "sizes": [1, 4],
            "accuracy": accuracy,
            "difference": {"PRM, min of steps - random pick": {"4": {"value": 0.1, "low": 0.0, "high": 0.2}}},
            "within_problem_auroc": {"PRM, min of steps": interval},
            "length": {"scores": {"PRM, min of steps": {"within_problems": interval}}},
            "token_rewards": {"classes": {"digits": {"magnitude": interval}}},
        },
    )
    write_json(options.out / "stages" / "ce.json", {"cpu_seconds": 3600, "host_gb": 2.0})
    _finish_tuning(options)
    monkeypatch.setattr("sys.argv", ["qwen05b_report.py", "--out", str(options.out)])
    qwen05b_report.main()
    written = capsys.readouterr().out
    assert "| train | 4 | 12 | 41.7% | 2 | 0.0% |" in written
    assert "| 0.05 | 0.001 | 0.700 | yes |" in written
    assert "| ce: PRM, min of steps | 0.500 [0.250, 0.750] | 50.0 [25.0, 75.0] |  | +10.0 [0.0, 20.0] |" in written
    assert "| ce | 0.500 [0.250, 0.750] | 50.0 |" in written
    assert "1.0 hours" in written
