"""scripts/run_on_gpu.py: valid commands, and a run on the sandbox that fails, resumes and skips finished stages."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import bench_scoring
import bench_training
import pytest
import run_on_gpu
from benchlib import options as bench_options
from studylib import work

from implicit_prm.config import ProcessBenchConfig

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "run_on_gpu.py"
TINY = ["--model", "sandbox", "--device", "cpu", "--problems", "8", "--responses", "4", "--test-problems", "4"]


def run(folder, *options, minutes="5"):
    command = [sys.executable, str(SCRIPT), *TINY, "--test-responses", "2", "--report", "results", "--minutes", minutes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *options], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_invalid_options_are_refused(tmp_path):
    for options, message in (
        (["--device", "gpu"], "--device gpu"),
        (["--device", "cuda:97"], "--device cuda:97"),
        (["--rollouts", "missing.jsonl"], "missing.jsonl"),
    ):
        result = run(tmp_path, *options)
        assert result.returncode == 2
        assert message in result.stderr
    result = run(tmp_path, "--model", "m", "--data", str(tmp_path))
    assert "math_train.jsonl" in result.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
@pytest.mark.parametrize("model", ["sandbox", "org/model"])
def test_options_of_every_stage_are_valid(model, device, monkeypatch):
    monkeypatch.setattr(run_on_gpu, "gpu", lambda device: "a GPU")
    monkeypatch.setattr(sys, "argv", ["run_on_gpu.py", "--model", model, "--device", device])
    listed = run_on_gpu.stages(run_on_gpu.parse())
    assert len(listed) == (8 if model == "sandbox" else 10)
    commands = {name: work.COMMANDS[name] for name in ("rollout", "train")} | {"eval": work.COMMANDS["measure"]}
    benchmarks = {one.__name__: one for one in (bench_scoring, bench_training)}
    for stage in listed:
        if stage.name.startswith("bench "):
            bench_options.parse(benchmarks[Path(stage.program).stem].parser(), stage.arguments)
            continue
        command = commands[stage.program]
        if "task=processbench" in stage.arguments:
            command = replace(command, options=ProcessBenchConfig)
        work.options(command, stage.arguments)


def test_results_without_a_training_loss(tmp_path):
    """Training that was interrupted after its last step and resumed has no loss."""
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    metrics = {"sizes": [2], "problems": 4, "responses": 8, "cut_off_responses": 1, "unanswered_responses": 0}
    metrics |= {"accuracy": {"majority vote": {"2": interval}}, "difference": {}}
    metrics |= {"within_problem_auroc": {"majority vote": interval}}
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "metrics.json").write_text(json.dumps(metrics))
    for trained, expected in (({"train_loss": 0.25}, True), ({}, False)):
        (tmp_path / "train_metrics.json").write_text(json.dumps(trained))
        page = "\n".join(run_on_gpu.results("ce", tmp_path))
        assert ("Training loss 0.2500" in page) is expected
        assert "| majority vote | 50.0 [40.0, 60.0] |  | 0.500 [0.400, 0.600] |" in page


@pytest.mark.slow
def test_failed_stage_is_resumed_and_finished_ones_are_skipped(tmp_path):
    steps = "trainer.max_steps=2"
    # A failed stage is named with its command; finished stages are kept.
    failed = run(tmp_path, "--", steps, "trainer.learning_rate=fast")
    assert failed.returncode != 0
    assert "stage train ce failed with status 1" in failed.stderr
    assert "implicit_prm.cli.train" in failed.stderr
    sampled = (tmp_path / "outputs/gpu/train.jsonl").read_bytes()

    result = run(tmp_path, "--", steps)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "== sample: done" in result.stdout
    assert (tmp_path / "outputs/gpu/train.jsonl").read_bytes() == sampled
    page = (tmp_path / "results/cpu-sandbox.md").read_text()
    for stage in ("sample", "candidates", "train ce", "train dpo", "rerank ce", "rerank dpo"):
        assert f"| {stage} |" in page
    assert "## ce: best of 2 on 4 problems" in page
    assert "| PRM, min of steps |" in page
    assert "## Scoring 8 responses per prompt" in page
    tokens = int(page.split("| sample | ")[1].split(" | ")[1].replace(",", ""))
    assert 8 * 4 * 5 < tokens < 8 * 4 * 48

    again = run(tmp_path, "--", steps)
    assert again.returncode == 0
    assert again.stdout.count(": done") == 8
    other = run(tmp_path, "--", "trainer.max_steps=3")
    assert "outputs/gpu has results of another command for stage train ce" in other.stderr

    # A call that has no time left ends before the next stage.
    late = run(tmp_path, "--out", "late", "--call-minutes", "0.5")
    assert "--call-minutes before stage sample" in late.stderr

    # A stage that reaches its limit is reported, and its time recorded.
    cut = run(tmp_path, "--out", "cut", minutes="0.01")
    assert "stage sample reached the limit of 0.01 minutes" in cut.stderr
    record = json.loads((tmp_path / "cut/stages/sample.json").read_text())
    assert record["done"] is False
    assert record["seconds"] > 0
