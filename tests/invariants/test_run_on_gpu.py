"""scripts/run_on_gpu.py on the sandbox: the whole road, a stage that fails, and what is not repeated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "run_on_gpu.py"
TINY = ["--model", "sandbox", "--device", "cpu", "--problems", "8", "--responses", "4", "--test-problems", "4"]


def road(folder, *options, minutes="5"):
    command = [sys.executable, str(SCRIPT), *TINY, "--test-responses", "2", "--report", "results", "--minutes", minutes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *options], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_wrong_options_are_refused_before_anything_runs(tmp_path):
    for options, sentence in (
        (["--device", "gpu"], "give cpu or cuda:K"),
        (["--device", "cuda:97"], "nvidia-smi knows no such GPU"),
        (["--rollouts", "missing.jsonl"], "missing.jsonl: no such file"),
    ):
        result = road(tmp_path, *options)
        assert result.returncode == 2
        assert sentence in result.stderr
    result = road(tmp_path, "--model", "m", "--data", str(tmp_path))
    assert "holds no math_train.jsonl" in result.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_the_whole_road_fails_goes_on_and_does_not_repeat(tmp_path):
    steps = "trainer.max_steps=2"
    # A stage that fails is named with its command; what was done before it stays done.
    failed = road(tmp_path, "--", steps, "trainer.learning_rate=fast")
    assert failed.returncode != 0
    assert "stage train ce failed with status 1. To repeat it alone:" in failed.stderr
    assert "implicit_prm.cli.train" in failed.stderr
    sampled = (tmp_path / "outputs/gpu/train.jsonl").read_bytes()

    result = road(tmp_path, "--", steps)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "== sample: done" in result.stdout
    assert (tmp_path / "outputs/gpu/train.jsonl").read_bytes() == sampled
    page = (tmp_path / "results/cpu-sandbox.md").read_text()
    for stage in ("sample", "candidates", "train ce", "train dpo", "rerank ce", "rerank dpo"):
        assert f"| {stage} |" in page
    assert "## ce: best of 2 on 4 problems" in page
    assert "| PRM, min of steps |" in page
    tokens = int(page.split("| sample | ")[1].split(" | ")[1].replace(",", ""))
    assert 8 * 4 * 5 < tokens < 8 * 4 * 48

    again = road(tmp_path, "--", steps)
    assert again.returncode == 0
    assert again.stdout.count(": done") == 6
    other = road(tmp_path, "--", "trainer.max_steps=3")
    assert "stage train ce is done in outputs/gpu by another command" in other.stderr

    # Cut off by its limit, a stage says so and the record keeps the time.
    cut = road(tmp_path, "--out", "cut", minutes="0.01")
    assert "stage sample reached its limit of 0.01 minutes" in cut.stderr
    record = json.loads((tmp_path / "cut/stages/sample.json").read_text())
    assert record["done"] is False
    assert record["seconds"] > 0
