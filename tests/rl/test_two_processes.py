"""Two processes on the CPU take the same steps as one with twice the batch: of the policy and of the PRM."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.rl.fixed_rollouts import main


def results(output):
    return torch.load(output / "weights.pt"), json.loads((output / "log.json").read_text())


def test_two_processes_train_as_one(tiny_folder, other_folder, tmp_path):
    """Three prompts with four responses to a step, so one prompt's responses are split between the processes."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    folders = str(tiny_folder), str(other_folder)
    main(str(tmp_path / "one"), *folders, "12")
    command = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m", "tests.rl.fixed_rollouts"]
    result = subprocess.run(
        [sys.executable, *command, str(tmp_path / "two"), *folders, "6"],
        **{"capture_output": True, "text": True, "timeout": 400, "check": False},
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (one, one_log), (two, two_log) = results(tmp_path / "one"), results(tmp_path / "two")
    for key in ("loss", "grad_norm", "prm/loss", "prm/grad_norm", "prm/return", "prm/outcome_auroc", "reward"):
        assert [row[key] for row in two_log] == pytest.approx([row[key] for row in one_log], rel=1e-3, abs=1e-5), key
    for ours, theirs in zip(two, one, strict=True):
        for name, weight in ours.items():
            torch.testing.assert_close(weight, theirs[name], atol=1e-5, rtol=1e-3)
