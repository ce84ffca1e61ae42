"""Two processes on the CPU take the same steps as one with twice the batch: of the policy and of the PRM."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def run(output, folders, batch_size, processes):
    output.mkdir()
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    command = [sys.executable, *(launch if processes > 1 else []), "-m", "tests.rl.fixed_rollouts"]
    result = subprocess.run(
        [*command, str(output), *map(str, folders), str(batch_size)],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return torch.load(output / "weights.pt"), json.loads((output / "log.json").read_text())


def test_two_processes_train_as_one(tiny_folder, other_folder, tmp_path):
    """Three prompts with four responses to a step, so one prompt's responses are split between the processes."""
    folders = tiny_folder, other_folder
    one, one_log = run(tmp_path / "one", folders, 12, 1)
    two, two_log = run(tmp_path / "two", folders, 6, 2)
    for key in ("loss", "grad_norm", "prm/loss", "prm/grad_norm", "prm/return", "prm/outcome_auroc", "reward"):
        assert [row[key] for row in two_log] == pytest.approx([row[key] for row in one_log], rel=1e-3, abs=1e-5), key
    for ours, theirs in zip(two, one, strict=True):
        for name, weight in ours.items():
            torch.testing.assert_close(weight, theirs[name], atol=1e-5, rtol=1e-3)
