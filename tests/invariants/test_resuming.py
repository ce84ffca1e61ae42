"""A run that is resumed, from any checkpoint and after any death, is the run that was never interrupted."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from implicit_prm import ImplicitPRMError, fit
from implicit_prm.training import LogRatioTrainer
from tests.conftest import graded_rows, write_rows
from tests.runs import RESUMABLE, config, log, quiet

# The adapter's dropout draws from the generators whose states a checkpoint keeps.
KINDS = {"full": {}, "lora": {"lora": {"r": 4, "dropout": 0.5}}}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", graded_rows(12, 4))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_folder, rows):
    """The uninterrupted run of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    for kind, model in KINDS.items():
        fit(config(folder / kind, tiny_folder, rows, model_options=model, **RESUMABLE), quiet)
    return folder


def assert_same_run(ours, theirs, first_step=0):
    """Losses from `first_step` on and final weights."""
    losses = [[row["loss"] for row in log(folder) if "loss" in row] for folder in (ours, theirs)]
    assert len(losses[1]) == 6
    assert losses[0] == pytest.approx(losses[1][first_step:], abs=1e-6)
    for file in theirs.glob("*model.safetensors"):
        expected = load_file(file)
        for name, weight in load_file(ours / file.name).items():
            torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [2, 4])
def test_resumed_from_any_checkpoint_equals_uninterrupted(step, kind, tmp_path, tiny_folder, rows, whole):
    named = {**RESUMABLE, "resume_from_checkpoint": str(whole / kind / f"checkpoint-{step}")}
    fit(config(tmp_path / "run", tiny_folder, rows, model_options=KINDS[kind], **named), quiet)
    assert_same_run(tmp_path / "run", whole / kind, first_step=step)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="sends SIGKILL")
@pytest.mark.parametrize(
    "kind", ["optimizer", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("weights", "state", "finished"))]
)
def test_killed_while_saving_goes_on_from_the_last_whole_checkpoint(kind, tmp_path, tiny_folder, rows, whole):
    script, run = Path(__file__).with_name("killed_run.py"), tmp_path / "finished"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(script.parents[2]), *sys.path])}
    command = [sys.executable, str(script), kind, str(run), str(tiny_folder), str(rows)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr[-3000:]
    assert not (run / "implicit_prm.json").exists()  # nothing that looks finished
    said = []
    fit(config(run, tiny_folder, rows, **RESUMABLE, resume_from_checkpoint="true"), said.append)
    last = "checkpoint-6" if kind == "finished" else "checkpoint-2"
    assert f"resuming from {run / last}" in said
    assert any("skipping" in line and "checkpoint-4" in line for line in said) == (kind != "finished")
    assert_same_run(run, whole / "full")


@pytest.mark.parametrize("loss", ["ce", "kto"])
def test_means_over_steps_before_and_after_the_checkpoint_are_logged_alike(loss, tmp_path, tiny_folder, rows):
    """A log of every 3 steps, a checkpoint of every 2: the log of step 3 is also of steps 1 and 2."""
    options = {**RESUMABLE, "logging_steps": 3}
    fit(config(tmp_path / "whole", tiny_folder, rows, loss, **options), quiet)
    shutil.copytree(tmp_path / "whole", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-[46]", "i*.json"))
    fit(config(tmp_path / "run", tiny_folder, rows, loss, **options, resume_from_checkpoint="true"), quiet)
    ours, theirs = (
        [{key: value for key, value in row.items() if not key.endswith(("_runtime", "_second"))} for row in log(folder)]
        for folder in (tmp_path / "run", tmp_path / "whole")
    )
    assert ours == theirs
    assert "train_loss" in ours[-1]


def test_a_damaged_checkpoint_is_passed_over_and_its_step_done_again(tmp_path, tiny_folder, rows, whole):
    run = shutil.copytree(whole / "full", tmp_path / "run")
    os.truncate(run / "checkpoint-6" / "optimizer.pt", 0)
    os.truncate(run / "checkpoint-4" / "model.safetensors", 5000)
    named = {**RESUMABLE, "resume_from_checkpoint": str(run / "checkpoint-4")}
    with pytest.raises(ImplicitPRMError, match=r"checkpoint-4: model\.safetensors.*name an earlier one"):
        fit(config(run, tiny_folder, rows, **named), quiet)
    said = []
    fit(config(run, tiny_folder, rows, **RESUMABLE, resume_from_checkpoint="true"), said.append)
    assert f"skipping {run / 'checkpoint-6'}: optimizer.pt is truncated (0 bytes)" in said
    assert any(line.startswith(f"skipping {run / 'checkpoint-4'}: model.safetensors") for line in said)
    assert f"resuming from {run / 'checkpoint-2'}" in said
    assert (run / "damaged-checkpoint-6").is_dir()  # kept, and out of the way of rotation
    assert_same_run(run, whole / "full")


def test_rotation_keeps_the_best_and_the_last(tmp_path, tiny_folder, rows):
    options = {
        **{"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 4},
        **{"save_total_limit": 2, "load_best_model_at_end": True, "metric_for_best_model": "eval_rewards/margins"},
        **{"greater_is_better": False, "learning_rate": 5e-3},  # the margin grows: the first step is the best
    }
    fit(config(tmp_path / "run", tiny_folder, rows, data={"dev": str(rows)}, **options), quiet)
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-4"]
    final, best = (load_file(tmp_path / "run" / name / "model.safetensors") for name in (".", "checkpoint-1"))
    assert all(torch.equal(final[name], best[name]) for name in best)


def test_after_a_death_rotation_counts_whole_checkpoints_only(tmp_path, tiny_folder, rows, whole):
    run = shutil.copytree(whole / "full", tmp_path / "run")
    (run / "checkpoint-6" / "trainer_state.json").unlink()
    shutil.rmtree(run / "checkpoint-2")
    resumed = {**RESUMABLE, "save_steps": 5, "save_total_limit": 1, "resume_from_checkpoint": "true"}
    fit(config(run, tiny_folder, rows, **resumed), quiet)
    (kept,) = run.glob("checkpoint-*")
    assert (kept / "trainer_state.json").exists()


def test_dying_in_the_last_save_leaves_nothing_that_looks_finished(tmp_path, tiny_folder, rows, whole, monkeypatch):
    """Weights are overwritten in place; beside half of them the settings of the model before would be a lie."""
    run = shutil.copytree(whole / "full", tmp_path / "run")
    monkeypatch.setattr(LogRatioTrainer, "save_model", lambda self: sys.exit(1))
    with pytest.raises(SystemExit):
        fit(config(run, tiny_folder, rows, **RESUMABLE, resume_from_checkpoint="true"), quiet)
    assert not (run / "implicit_prm.json").exists()
