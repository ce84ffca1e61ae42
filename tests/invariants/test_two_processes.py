"""Two processes on the CPU (gloo) take the same steps, and give the same scores, as one with twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import graded_rows, write_rows

TRAIN = ["-m", "implicit_prm.cli.train"]
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def _run(folder, command, processes=1, **environment):
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    command = [sys.executable, *(launch if processes > 1 else []), *command]
    environment = {**os.environ, **environment}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def _options(tiny_folder, loss, name, batch, *overrides):
    return [
        *(f"loss={loss}", f"model.name={tiny_folder}", "data.train=rows.jsonl", "data.hold_out_prompts=4"),
        *(
            "trainer.eval_strategy=epoch",
            "trainer.save_strategy=no",
            "trainer.logging_steps=1",
            "+trainer.use_cpu=true",
        ),
        *("trainer.warmup_steps=0", f"trainer.per_device_train_batch_size={batch}", f"output_dir={name}", *overrides),
    ]


def _equal(folder, one, two):
    """Loss, gradient norm and margins of every step, and the dev loss, to a part in a thousand."""
    for key in ("loss", "grad_norm", "rewards/margins", "eval_loss"):
        lines = [(folder / name / "log.jsonl").read_text().splitlines() for name in (one, two)]
        theirs, ours = ([row[key] for row in map(json.loads, some) if key in row] for some in lines)
        assert len(ours) >= 2
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("loss", [pytest.param("dpo", marks=pytest.mark.slow), "kto"])
def test_two_processes_train_as_one(loss, tmp_path, tiny_folder):
    """13 prompts in batches of 4: the last one leaves a process without any, and no prompt counts twice."""
    write_rows(tmp_path / "rows.jsonl", graded_rows(17, 3))
    _run(tmp_path, [*TRAIN, *_options(tiny_folder, loss, "one", 4)])
    _run(tmp_path, [*TRAIN, *_options(tiny_folder, loss, "two", 2)], processes=2)
    _equal(tmp_path, "one", "two")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "more"),
    [
        ("dpo", []),
        ("kto", []),
        ("kto", ["loss.batch_unit=prompt"]),
        ("ce", ["loss.offset=group_mean"]),
        ("prefix", []),
        ("steps", ["model.reference=initial", "model.beta=2"]),
    ],
)
def test_two_processes_with_sharded_weights_train_as_one(loss, more, tmp_path, tiny_folder):
    """FSDP2, with so small pieces that the processes differ in how many they need."""
    write_rows(tmp_path / "rows.jsonl", graded_rows(17, 3))
    _run(tmp_path, [*TRAIN, *_options(tiny_folder, loss, "one", 4, *more)])
    script = str(Path(__file__).with_name("fsdp_on_cpu.py"))
    options = _options(tiny_folder, loss, "two", 2, "max_tokens_per_batch=70", *more)
    printed = _run(tmp_path, [script, *options], processes=2, **FSDP)
    assert "sharded modules: 6" in printed  # two models of two layers and a root: the policy in each process
    _equal(tmp_path, "one", "two")


def test_two_processes_score_as_one(tmp_path, tiny_folder, other_folder):
    write_rows(tmp_path / "rows.jsonl", graded_rows(7, 3))
    command = ["-m", "implicit_prm.cli.eval", f"checkpoint={tiny_folder}", f"reference={other_folder}", "beta=1.0"]
    command += ["steps=newline", "candidates=rows.jsonl"]
    _run(tmp_path, [*command, "output_dir=one", "reference_cache=a"])
    _run(tmp_path, [*command, "output_dir=two", "reference_cache=b"], processes=2)
    one, two = (pq.read_table(tmp_path / name / "scores.parquet").to_pylist() for name in ("one", "two"))
    assert len(one) == 21
    for ours, theirs in zip(two, one, strict=True):
        assert (ours["problem_id"], ours["response"]) == (theirs["problem_id"], theirs["response"])
        assert ours["step_rewards"] == pytest.approx(theirs["step_rewards"], abs=1e-5)
    accuracy = [json.loads((tmp_path / name / "metrics.json").read_text())["accuracy"] for name in ("one", "two")]
    assert accuracy[0] == accuracy[1]
