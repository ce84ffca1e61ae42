"""What every trainer does: it stops when numbers are not finite, checks the metric's name, and resumes exactly."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

from implicit_prm import ImplicitPRMError, fit
from implicit_prm.baselines.run import fit as fit_baseline
from implicit_prm.config import CEConfig
from implicit_prm.models.checkpoint import CheckpointMetadata
from implicit_prm.training import LogRatioTrainer
from tests.baselines.runs import baseline, labelled_file
from tests.conftest import graded_rows, tiny_model, write_rows
from tests.runs import RESUMABLE, config, log, quiet

SAVING = {"save_strategy": "steps", "save_steps": 1}


def with_one_weight(folder, target, value):
    """The model in `folder` with one weight of its last layer changed."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    weights["model.norm.weight"][0] = value
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def assert_no_finished_model(folder):
    assert not list(folder.glob("*.safetensors"))
    assert not (folder / "implicit_prm.json").exists()
    assert not (folder / "baseline.json").exists()


@pytest.mark.parametrize("loss", ["ce", "dpo", "kto", "nca"])
@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_a_diverging_run_stops_and_saves_no_model(loss, lora, tmp_path, tiny_folder, rollouts_file):
    options = {"learning_rate": 1e30, "max_steps": 8, "max_grad_norm": 0.0, **SAVING}
    with pytest.raises(ImplicitPRMError, match="learning_rate"):
        fit(config(tmp_path, tiny_folder, rollouts_file, loss, model_options={"lora": lora}, **options), quiet)
    assert_no_finished_model(tmp_path)
    for checkpoint in tmp_path.glob("checkpoint-*"):
        for weights in checkpoint.glob("*.safetensors"):
            assert all(weight.isfinite().all() for weight in load_file(weights).values())


def test_a_diverging_explicit_model_stops_and_saves_no_model(tmp_path, tiny_folder):
    rollouts = labelled_file(tmp_path / "rows.jsonl")
    trainer = {"learning_rate": 1e30, "max_steps": 8, "max_grad_norm": 0.0}
    with pytest.raises(ImplicitPRMError, match="learning_rate"):
        fit_baseline(baseline(tmp_path / "run", tiny_folder, rollouts, "value_head", trainer=trainer), quiet)
    assert_no_finished_model(tmp_path / "run")


def test_a_run_whose_last_step_diverges_saves_no_model(tmp_path, tiny_folder, rollouts_file):
    """No further loss is computed after the last step, so only saving can find out."""
    options = {"learning_rate": 1e38, "max_steps": 1, "weight_decay": 0.1, **SAVING}
    with pytest.raises(ImplicitPRMError, match="learning_rate"):
        fit(config(tmp_path, tiny_folder, rollouts_file, **options), quiet)
    assert_no_finished_model(tmp_path)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_the_last_good_checkpoint_is_kept_and_named(tmp_path, tiny_folder, rollouts_file):
    good = {**SAVING, "save_total_limit": 1, "lr_scheduler_type": "constant"}
    fit(config(tmp_path, tiny_folder, rollouts_file, max_steps=2, **good), quiet)
    before = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    bad = good | {"learning_rate": 1e38, "max_steps": 6, "resume_from_checkpoint": "true", "weight_decay": 0.1}
    state = torch.load(tmp_path / "checkpoint-2" / "optimizer.pt")
    for group in state["param_groups"]:
        group["lr"] = group["initial_lr"] = 1e38
    torch.save(state, tmp_path / "checkpoint-2" / "optimizer.pt")
    schedule = torch.load(tmp_path / "checkpoint-2" / "scheduler.pt")
    schedule["base_lrs"] = [1e38 for _ in schedule["base_lrs"]]
    torch.save(schedule, tmp_path / "checkpoint-2" / "scheduler.pt")
    with pytest.raises(ImplicitPRMError, match="checkpoint-2"):
        fit(config(tmp_path, tiny_folder, rollouts_file, **bad), quiet)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    after = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_initial_model_that_is_not_finite_is_refused(value, tmp_path, tiny_folder, rollouts_file):
    broken = with_one_weight(tiny_folder, tmp_path / "broken", value)
    for name, options in {"own": {}, "none": {"reference": "none"}, "other": {"reference": str(tiny_folder)}}.items():
        with pytest.raises(ImplicitPRMError, match="finite"):
            fit(config(tmp_path / name, broken, rollouts_file, model_options=options), quiet)
        assert_no_finished_model(tmp_path / name)


def test_a_reference_that_is_not_finite_is_refused_and_not_cached(tmp_path, tiny_folder, rollouts_file, monkeypatch):
    monkeypatch.setenv("IPR_CACHE", str(tmp_path / "cache"))
    broken = with_one_weight(tiny_folder, tmp_path / "broken", math.nan)
    with pytest.raises(ImplicitPRMError, match="not finite"):
        fit(config(tmp_path / "run", tiny_folder, rollouts_file, model_options={"reference": str(broken)}), quiet)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["rewards/accuracy", "eval_rewards/margin", "best_of_n/last"])
def test_an_unknown_metric_for_best_model_is_refused_before_training(name, tmp_path, tiny_folder, rollouts_file):
    options = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": name}
    with pytest.raises(ImplicitPRMError, match=f"metric_for_best_model={name}.*rewards/margins"):
        fit(config(tmp_path / "run", tiny_folder, rollouts_file, data={"hold_out_prompts": 3}, **options), quiet)
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.parametrize("name", ["loss", "eval_loss", "best_of_n/last"])
def test_metrics_of_explicit_models_are_known(name, tmp_path, tiny_folder):
    options = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": name, "max_steps": 1}
    rollouts = labelled_file(tmp_path / "rows.jsonl")
    run = baseline(tmp_path / "run", tiny_folder, rollouts, "orm", data={"hold_out_prompts": 3}, trainer=options)
    assert "eval_loss" in fit_baseline(run, quiet)


def test_logs_are_json_where_a_metric_has_no_value(tmp_path, tiny_folder):
    """A dev set of correct responses has no margin, accuracy or reward of incorrect ones."""
    rows = graded_rows(6, 4)
    dev = write_rows(tmp_path / "dev.jsonl", [row | {"correctness": [True] * 4} for row in rows[:2]])
    train = write_rows(tmp_path / "train.jsonl", rows[2:])
    options = {"eval_strategy": "steps", "eval_steps": 1}
    fit(config(tmp_path / "run", tiny_folder, train, data={"dev": str(dev)}, **options), quiet)

    def refuse(constant):
        raise AssertionError(constant)

    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    parsed = [json.loads(line, parse_constant=refuse) for line in lines]
    evaluated = [row for row in parsed if "eval_loss" in row]
    assert evaluated[0]["eval_rewards/margins"] is None
    assert evaluated[0]["eval_rewards/chosen"] is not None
    for name in ("train_metrics.json", "run.json", "data_report.json"):
        json.loads((tmp_path / "run" / name).read_text(), parse_constant=refuse)


# Three optimiser steps an epoch: 5 and 7 end in the middle of one.
@pytest.mark.parametrize("steps", [5, 7])
@pytest.mark.parametrize("lora", [None, {"r": 4, "dropout": 0.5}], ids=["full", "lora"])
def test_with_max_steps_every_resumed_run_equals_the_uninterrupted_one(steps, lora, tmp_path, tiny_folder):
    rows = write_rows(tmp_path / "rows.jsonl", graded_rows(12, 4))
    options = {**RESUMABLE, "max_steps": steps, "save_total_limit": None}
    fit(config(tmp_path / "whole", tiny_folder, rows, model_options={"lora": lora}, **options), quiet)
    losses = [row["loss"] for row in log(tmp_path / "whole") if "loss" in row]
    assert len(losses) == steps
    saved = {*range(2, steps, 2), steps}
    for step in (2, 4, steps):
        run = shutil.copytree(tmp_path / "whole", tmp_path / f"from-{step}")
        for later in range(step + 1, steps + 1):
            shutil.rmtree(run / f"checkpoint-{later}", ignore_errors=True)
        (run / "implicit_prm.json").unlink()
        resumed = options | {"resume_from_checkpoint": "true"}
        fit(config(run, tiny_folder, rows, model_options={"lora": lora}, **resumed), quiet)
        assert [row["loss"] for row in log(run) if "loss" in row] == pytest.approx(losses, abs=1e-6)
        assert {path.name for path in run.glob("checkpoint-*")} == {f"checkpoint-{n}" for n in saved}
        for file in (tmp_path / "whole").glob("*model.safetensors"):
            expected = load_file(file)
            for name, weight in load_file(run / file.name).items():
                torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("evaluation", ["no", "steps"])
def test_a_run_that_ended_after_its_last_step_ends_alike_when_resumed(evaluation, tmp_path, tiny_folder, rollouts_file):
    """Whatever of the summary and the final dev metrics it had logged by then."""
    options = {**RESUMABLE, "max_steps": 5, "eval_strategy": evaluation, "eval_steps": 5}
    data = {"hold_out_prompts": 3}
    fit(config(tmp_path, tiny_folder, rollouts_file, data=data, **options), quiet)
    before, lines = load_file(tmp_path / "model.safetensors"), (tmp_path / "log.jsonl").read_text().splitlines(True)
    rows, metrics = _without_times(log(tmp_path)), json.loads((tmp_path / "train_metrics.json").read_text())
    assert metrics["train_loss"] > 0
    after_checkpoint = 2 if evaluation == "no" else 1  # the summary, and dev metrics that no step has computed
    for written in range(len(lines) - after_checkpoint, len(lines) + 1):
        (tmp_path / "log.jsonl").write_text("".join(lines[:written]))
        fit(config(tmp_path, tiny_folder, rollouts_file, data=data, **options, resume_from_checkpoint="true"), quiet)
        after = load_file(tmp_path / "model.safetensors")
        assert all(torch.equal(after[name], weight) for name, weight in before.items())
        assert _without_times(log(tmp_path)) == rows
        assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (2, 4, 5)]
        assert json.loads((tmp_path / "train_metrics.json").read_text())["train_loss"] == metrics["train_loss"]


def test_a_finished_run_is_evaluated_again_on_another_dev_set(tmp_path, tiny_folder, rollouts_file):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(rollouts_file.read_text().splitlines(True)[:2]))
    options = {**RESUMABLE, "max_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    folder, metrics = tmp_path / "run", []
    for dev in (rollouts_file, other, other):
        resume = {"resume_from_checkpoint": "true"} if metrics else {}
        metrics.append(
            fit(config(folder, tiny_folder, rollouts_file, data={"dev": str(dev)}, **options, **resume), quiet)
        )
    assert metrics[0]["eval_loss"] != metrics[1]["eval_loss"]
    assert metrics[2]["eval_loss"] == metrics[1]["eval_loss"]


def _without_times(rows):
    return [{key: value for key, value in row.items() if not key.endswith(("_runtime", "_second"))} for row in rows]


def test_before_the_first_step_every_pair_is_a_tie(tmp_path, tiny_folder, rollouts_file):
    """Policy and reference are equal, so margins are zero but for rounding."""
    for loss in ("ce", "dpo"):
        run = config(tmp_path / loss, tiny_folder, rollouts_file, loss)
        run.max_tokens_per_batch = 1
        fit(run, quiet)
        assert log(tmp_path / loss)[0]["rewards/accuracies"] == 0.5


def test_several_gpus_in_one_process_are_refused(tokenizer, tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    arguments._n_gpu = 2
    with pytest.raises(ImplicitPRMError, match="accelerate launch"):
        LogRatioTrainer(
            tiny_model(tokenizer), arguments, CEConfig(), CheckpointMetadata(1.0, "none"), processing_class=tokenizer
        )
