"""Two processes on the CPU (gloo) take the same steps as one with twice the prompts in a batch."""

import json
import os
import subprocess
import sys

import pytest
from conftest import graded_rows, write_rows


def _train(folder, name, tiny_folder, processes, loss, *overrides):
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(processes),
        "--master_port",
        "29571",
    ]
    command = [
        *(launch if processes > 1 else [sys.executable]),
        *("-m", "implicit_prm.cli.train", f"loss={loss}", f"model.name={tiny_folder}", "data.train=rows.jsonl"),
        *("data.hold_out_prompts=0", "trainer.eval_strategy=no", "trainer.save_strategy=no", "trainer.max_steps=4"),
        *("trainer.logging_steps=1", "+trainer.use_cpu=true", "trainer.warmup_steps=0", f"output_dir={name}"),
        *("+trainer.train_sampling_strategy=sequential", *overrides),
    ]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, env={**os.environ})
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_two_processes_equal_one(loss, tmp_path, tiny_folder):
    write_rows(tmp_path / "rows.jsonl", graded_rows(17, 3))
    one = _train(tmp_path, "one", tiny_folder, 1, loss, "trainer.per_device_train_batch_size=4")
    two = _train(tmp_path, "two", tiny_folder, 2, loss, "trainer.per_device_train_batch_size=2")
    for key in ("loss", "grad_norm", "rewards/margins"):
        ours, theirs = ([row[key] for row in rows if key in row] for rows in (two, one))
        assert len(ours) == 4
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
