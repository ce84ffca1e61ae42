"""The trainer: same gradient however a batch is cut, first losses that can be worked out, logs, LoRA, bf16."""

import json
import math

import pytest
import torch
from torch._dynamo.utils import counters

from implicit_prm import ImplicitPRM, ImplicitPRMError, fit
from implicit_prm.config import TextConfig
from implicit_prm.data import encoded_sets
from implicit_prm.data.tokenization import build_prompt
from implicit_prm.models.shared_prompt import open_prompt
from implicit_prm.training import log_ratio_trainer
from tests.conftest import graded_rows, tiny_model, write_rows
from tests.runs import LOSSES, config, log, quiet, weights


@pytest.mark.parametrize("loss", LOSSES)
def test_accumulation_does_not_change_losses_or_weights(loss, tmp_path, tiny_folder, rollouts_file):
    """4 prompts at once equal 4 times 1 prompt, although prompts differ in their number of pairs."""
    for name, batch in (
        ("at_once", {}),
        ("one_by_one", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}),
    ):
        fit(config(tmp_path / name, tiny_folder, rollouts_file, loss, **batch), quiet)
    once, bits = log(tmp_path / "at_once"), log(tmp_path / "one_by_one")
    for key in ("loss", "grad_norm", "rewards/chosen"):
        assert [row[key] for row in bits if key in row] == pytest.approx(
            [r[key] for r in once if key in r], rel=1e-3, abs=1e-6
        )
    for name, weight in weights(tmp_path / "at_once").items():
        torch.testing.assert_close(weights(tmp_path / "one_by_one")[name], weight, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("loss", ["ce", "dpo", "kto", "steps"])
def test_data_that_are_kept_encoded_train_the_same_weights(loss, tmp_path, tiny_folder, rollouts_file, monkeypatch):
    """Encoded in memory, encoded in two processes, and read from disk."""
    monkeypatch.setattr(encoded_sets, "KEPT_FROM_BYTES", 0)
    folder = tmp_path / "cache"
    for name, cache in (("memory", None), ("written", str(folder)), ("read", str(folder))):
        data = {"hold_out_prompts": 3, "cache": cache, "num_proc": 2}
        fit(config(tmp_path / name, tiny_folder, rollouts_file, loss, data, eval_strategy="epoch"), quiet)
        assert len(list(folder.glob("*/*.arrow"))) == (0 if cache is None else 2)
        first = (tmp_path / "memory" / "model.safetensors").read_bytes()
        assert (tmp_path / name / "model.safetensors").read_bytes() == first
        for file in ("data_report.json", "implicit_prm.json"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "memory" / file).read_bytes()


@pytest.mark.parametrize(("strategy", "evaluations"), [("no", 1), ("epoch", 2), ("best", 2)])
def test_the_dev_set_is_evaluated_once_at_the_end(
    strategy, evaluations, tmp_path, tiny_folder, rollouts_file, monkeypatch
):
    """Two epochs; with `best`, the model of the first one is saved, and its metrics are reported."""
    calls = []
    evaluate = log_ratio_trainer.LogRatioTrainer.evaluate
    monkeypatch.setattr(
        log_ratio_trainer.LogRatioTrainer, "evaluate", lambda self, *a, **k: calls.append(1) or evaluate(self, *a, **k)
    )
    options = {"eval_strategy": "epoch", "num_train_epochs": 2, "max_steps": -1}
    if strategy == "no":
        options["eval_strategy"] = "no"
    if strategy == "best":
        options |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "save_strategy": "epoch"}
        options |= {"greater_is_better": True}  # the loss falls
    metrics = fit(config(tmp_path / "run", tiny_folder, rollouts_file, "ce", {"hold_out_prompts": 3}, **options), quiet)
    assert len(calls) == evaluations
    losses = [row["eval_loss"] for row in log(tmp_path / "run") if "eval_loss" in row]
    assert len(losses) == evaluations
    assert metrics["eval_loss"] == pytest.approx(losses[0 if strategy == "best" else -1])
    if strategy == "best":
        assert losses[0] > losses[1]


@pytest.mark.parametrize(
    ("loss", "first"),
    [
        ("dpo", math.log(2)),
        ("nca", 2 * math.log(2)),
        ("nca group", 2 * math.log(2)),
        ("kto", 0.5),
        ("ce", math.log(2)),
        ("ce group mean", math.log(2)),
        ("prefix", math.log(1 + math.exp(5))),
        ("steps", 0.25),
    ],
)
def test_the_first_loss_is_that_of_zero_rewards(loss, first, tmp_path, tiny_folder, rollouts_file):
    """Policy and reference start equal, so every reward is 0 and every loss is known."""
    fit(config(tmp_path / "run", tiny_folder, rollouts_file, loss), quiet)
    assert log(tmp_path / "run")[0]["loss"] == pytest.approx(first, abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_training_separates_correct_from_incorrect(loss, tmp_path, tiny_folder, rollouts_file):
    options = {"max_steps": 12, "learning_rate": 5e-3}
    if loss in ("kto", "ce by response"):
        options["per_device_train_batch_size"] = 16  # responses; 4 prompts have as many
    fit(config(tmp_path / "run", tiny_folder, rollouts_file, loss, **options), quiet)
    rows = [row for row in log(tmp_path / "run") if "rewards/margins" in row]
    assert rows[-1]["rewards/margins"] > rows[0]["rewards/margins"] + 0.05
    assert rows[-1].get("rewards/accuracies", 1.0) > 0.6


@pytest.mark.parametrize("loss", ["ce", "kto"])
def test_a_step_of_all_responses_does_not_depend_on_the_batch_unit(loss, tmp_path, tiny_folder, rollouts_file):
    """All prompts at once and all responses at once are the same sum: their losses and gradients are equal."""
    name = {"ce": "ce by response", "kto": "kto by prompt"}[loss]
    for folder, one, size in (("a", loss, 1000), ("b", name, 1000)):
        fit(config(tmp_path / folder, tiny_folder, rollouts_file, one, per_device_train_batch_size=size), quiet)
    for key in ("loss", "grad_norm", "rewards/chosen", "rewards/rejected"):
        first, second = ([row[key] for row in log(tmp_path / folder) if key in row] for folder in "ab")
        assert len(first) == 3
        assert first == pytest.approx(second, rel=1e-3, abs=1e-5)


def test_responses_of_one_prompt_in_a_micro_batch_share_it(tmp_path, tiny_folder, rollouts_file, monkeypatch):
    prompts = []

    def observed(*arguments):
        if torch.is_grad_enabled():  # not the check of the model before it is saved
            prompts.append(arguments)
        return open_prompt(*arguments)

    monkeypatch.setattr(log_ratio_trainer, "open_prompt", observed)
    rows = len(rollouts_file.read_text().splitlines())
    for size in (1000, 1):  # all responses; one, which is a padded row
        batch = {"per_device_train_batch_size": size, "max_steps": 1}
        fit(config(tmp_path / str(size), tiny_folder, rollouts_file, "ce by response", **batch), quiet)
        assert len(prompts) == rows


def test_unpaired_losses_need_one_response_per_prompt_and_paired_ones_more(tmp_path, tiny_folder):
    rows = write_rows(tmp_path / "one.jsonl", graded_rows(8, 4))
    single = {"max_responses": 1}
    for loss in ("ce", "kto"):
        fit(config(tmp_path / loss, tiny_folder, rows, loss, data=single), quiet)
        assert (tmp_path / loss / "implicit_prm.json").exists()
    for loss in ("dpo", "nca", "kto paired"):
        with pytest.raises(ImplicitPRMError, match=r"loss=.*8 prompts"):
            fit(config(tmp_path / loss, tiny_folder, rows, loss, data=single), quiet)


def test_the_data_is_reported_before_training(tmp_path, tiny_folder, rollouts_file):
    said = []
    fit(config(tmp_path / "run", tiny_folder, rollouts_file, "dpo", data={"hold_out_prompts": 3}), said.append)
    assert said[0].split() == ["data", "train", "dev"]
    assert any(line.startswith("used") for line in said)
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert report["train"]["source"] == str(rollouts_file)
    assert (report["train"]["prompts"], report["dev"]["prompts"]) == (9, 3)
    assert report["train"]["all_correct"] + report["dev"]["all_correct"] == 1
    assert report["train"]["response_tokens"]["longest"] > 10
    assert report["train"]["used"]["prompts"] == 9 - report["train"]["all_correct"]


def test_resuming_continues_the_log_in_place(tmp_path, tiny_folder, rollouts_file):
    options = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    fit(config(tmp_path / "run", tiny_folder, rollouts_file, max_steps=4, **options), quiet)
    fit(
        config(tmp_path / "run", tiny_folder, rollouts_file, max_steps=6, resume_from_checkpoint="true", **options),
        quiet,
    )
    assert [row["step"] for row in log(tmp_path / "run") if "loss" in row] == [1, 2, 3, 4, 5, 6]


def test_a_finished_folder_is_not_overwritten_by_accident(tmp_path, tiny_folder, rollouts_file):
    run = config(tmp_path / "run", tiny_folder, rollouts_file, save_strategy="steps", save_steps=1)
    fit(run, quiet)
    with pytest.raises(ImplicitPRMError, match="overwrite=true"):
        fit(run, quiet)
    run.overwrite = True
    run.trainer["max_steps"] = 1
    fit(run, quiet)
    assert [path.name for path in sorted((tmp_path / "run").glob("checkpoint-*"))] == ["checkpoint-1"]


def test_every_checkpoint_is_an_implicit_prm(tmp_path, tiny_folder, rollouts_file):
    fit(config(tmp_path / "run", tiny_folder, rollouts_file, save_strategy="steps", save_steps=2), quiet)
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-2"):
        prm = ImplicitPRM.from_pretrained(folder, device="cpu")
        assert prm.metadata.beta == 0.5
        assert prm.metadata.reference == str(tiny_folder)
        assert prm.metadata.text.steps == "newline"
        assert prm.metadata.loss["name"] == "ce"
        assert prm.metadata.template_hash == prm.encoder.template_hash
        assert prm.score("Modulo 50, left to right: 1 + 2", ["1 + 2 = 3"])[0].step_rewards[0] != 0


@pytest.mark.parametrize("cache", [None, "kept"])
def test_a_bare_problem_becomes_the_chat_of_training(cache, tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(encoded_sets, "KEPT_FROM_BYTES", 0)
    text = TextConfig(prompt_template="{problem}\n\nBe brief.", system_prompt="You add.")
    rows = graded_rows(4, 2)
    problem = rows[0]["prompt"]
    chats = [{**row, "prompt": build_prompt(row["prompt"], text)} for row in rows]
    data = {"cache": cache and str(tmp_path / cache)}
    run = config(tmp_path / "run", tiny_folder, write_rows(tmp_path / "rows.jsonl", chats), max_steps=1, data=data)
    said = []
    fit(run, said.append)
    prm = ImplicitPRM.from_pretrained(tmp_path / "run", device="cpu")
    assert (prm.metadata.text.prompt_template, prm.metadata.text.system_prompt) == (
        text.prompt_template,
        text.system_prompt,
    )
    assert prm.metadata.template_hash == prm.encoder.template_hash
    assert prm.encoder.prompt_ids(problem) == prm.encoder.prompt_ids(chats[0]["prompt"])
    assert any("Be brief." in line for line in said)
    run.data.prompt_template, run.overwrite = "Q: {problem}", True
    fit(run, quiet)
    kept = ImplicitPRM.from_pretrained(tmp_path / "run", device="cpu").metadata.text
    assert (kept.prompt_template, kept.system_prompt) == ("Q: {problem}", None)


def test_lora_trains_the_adapter_alone_with_the_base_as_reference(tmp_path, tiny_folder, rollouts_file):
    lora = {"lora": {"r": 4, "alpha": 8}}
    fit(
        config(tmp_path / "run", tiny_folder, rollouts_file, model_options=lora, max_steps=8, learning_rate=2e-2), quiet
    )
    rows = [row for row in log(tmp_path / "run") if "loss" in row]
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert rows[-1]["rewards/margins"] > 0
    assert (tmp_path / "run" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "run" / "model.safetensors").exists()
    prm = ImplicitPRM.from_pretrained(tmp_path / "run", device="cpu")
    assert prm.metadata.reference == "adapter_off"
    base = ImplicitPRM.from_pretrained(tiny_folder, reference="none", beta=1.0, device="cpu")
    problem, text = "Modulo 50, left to right: 1 + 2", "1 + 2 = 3"
    assert prm.score(problem, [text])[0].reference_logprob == pytest.approx(
        base.score(problem, [text])[0].outcome_reward, abs=1e-4
    )


def test_without_a_reference_the_loss_is_that_of_the_log_likelihood(tmp_path, tiny_folder, rollouts_file):
    options = {"reference": "none", "beta": 0.01}
    fit(config(tmp_path / "run", tiny_folder, rollouts_file, model_options=options), quiet)
    first = log(tmp_path / "run")[0]
    assert first["rewards/chosen"] < -0.1  # beta * log-likelihood, not a log-ratio of zero
    assert ImplicitPRM.from_pretrained(tmp_path / "run", device="cpu").metadata.reference == "none"


def test_another_reference_model_is_used(tmp_path, tiny_folder, other_folder, rollouts_file):
    options = {"reference": str(other_folder)}
    fit(config(tmp_path / "run", tiny_folder, rollouts_file, model_options=options), quiet)
    assert log(tmp_path / "run")[0]["loss"] != pytest.approx(math.log(2), abs=1e-3)


def test_bfloat16_mixed_precision_stays_close(tmp_path, tiny_folder, rollouts_file):
    fit(config(tmp_path / "half", tiny_folder, rollouts_file, bf16=True), quiet)
    fit(config(tmp_path / "full", tiny_folder, rollouts_file), quiet)
    half, full = ([row["loss"] for row in log(tmp_path / name) if "loss" in row] for name in ("half", "full"))
    assert half[0] == pytest.approx(math.log(2), abs=1e-4)  # same noise in policy and reference: the ratio is still 0
    assert half == pytest.approx(full, abs=0.05)


@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_torch_compile_changes_nothing(lora, tmp_path, tiny_folder, rollouts_file):
    """With the eager backend, which traces and guards as inductor does but generates no code."""
    torch.compiler.reset()
    counters.clear()
    losses = []
    for name, more in (("plain", {}), ("compiled", {"torch_compile_backend": "eager"})):
        fit(config(tmp_path / name, tiny_folder, rollouts_file, model_options={"lora": lora}, **more), quiet)
        losses.append([row["loss"] for row in log(tmp_path / name) if "loss" in row])
        assert (counters["stats"]["unique_graphs"] > 0) == (name == "compiled")
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert not counters["graph_break"]


def test_gradient_checkpointing_changes_nothing(tmp_path, tiny_folder, rollouts_file):
    fit(config(tmp_path / "kept", tiny_folder, rollouts_file), quiet)
    fit(config(tmp_path / "again", tiny_folder, rollouts_file, gradient_checkpointing=True), quiet)
    kept, again = ([row["loss"] for row in log(tmp_path / name) if "loss" in row] for name in ("kept", "again"))
    assert again == pytest.approx(kept, rel=1e-5)  # plain rows against a shared prompt, so sums differ in order


def test_evaluation_during_training(tmp_path, tiny_folder, rollouts_file):
    options = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 2}
    metrics = fit(config(tmp_path / "run", tiny_folder, rollouts_file, data={"hold_out_prompts": 3}, **options), quiet)
    rows = [row for row in log(tmp_path / "run") if "eval_loss" in row]
    assert len(rows) >= 3
    for key in ("eval_rewards/accuracies", "eval_rewards/margins", "eval_best_of_n/min", "eval_best_of_n/sum"):
        assert all(key in row for row in rows)
        assert key in metrics
    assert all(key in log(tmp_path / "run")[0] for key in ("rewards/chosen", "rewards/rejected", "forward_kl"))


def test_wandb_offline(tmp_path, tiny_folder, rollouts_file, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no .netrc
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit(config(tmp_path / "run", tiny_folder, rollouts_file, report_to="wandb"), quiet)
    import wandb

    wandb.finish()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_kto_needs_two_prompts(tmp_path, tiny_folder):
    rows = write_rows(tmp_path / "one.jsonl", graded_rows(2, 4)[1:])
    with pytest.raises(ImplicitPRMError, match="loss=kto"):
        fit(config(tmp_path / "run", tiny_folder, rows, "kto"), quiet)


def test_resuming_with_another_loss_or_beta_is_refused(tmp_path, tiny_folder, rollouts_file):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    fit(config(tmp_path / "run", tiny_folder, rollouts_file, **options), quiet)
    go_on = {**options, "resume_from_checkpoint": "true"}
    with pytest.raises(ImplicitPRMError, match="loss="):
        fit(config(tmp_path / "run", tiny_folder, rollouts_file, "dpo", **go_on), quiet)
    with pytest.raises(ImplicitPRMError, match=r"beta=0\.5"):
        fit(config(tmp_path / "run", tiny_folder, rollouts_file, model_options={"beta": 0.1}, **go_on), quiet)


def test_an_incomplete_checkpoint_is_skipped(tmp_path, tiny_folder, rollouts_file):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "lr_scheduler_type": "constant"}
    fit(config(tmp_path / "run", tiny_folder, rollouts_file, **options), quiet)
    (tmp_path / "run" / "checkpoint-3" / "trainer_state.json").unlink()
    fit(config(tmp_path / "run", tiny_folder, rollouts_file, **{**options, "resume_from_checkpoint": "true"}), quiet)
    assert [row["step"] for row in log(tmp_path / "run") if "loss" in row] == [1, 2, 3]


def test_overwriting_an_adapter_with_a_full_model_leaves_no_adapter(tmp_path, tiny_folder, rollouts_file):
    fit(config(tmp_path / "run", tiny_folder, rollouts_file, model_options={"lora": {"r": 2}}), quiet)
    full = config(tmp_path / "run", tiny_folder, rollouts_file)
    full.overwrite = True
    fit(full, quiet)
    prm = ImplicitPRM.from_pretrained(tmp_path / "run", device="cpu")
    assert not hasattr(prm.policy, "disable_adapter")
    assert prm.metadata.reference == str(tiny_folder)


def test_the_dev_loss_is_per_pair_whatever_the_batches(tmp_path, tiny_folder, rollouts_file):
    """A dev batch without a pair must not count as one of loss 0."""
    losses = []
    for size in (1, 12):
        options = {"eval_strategy": "steps", "eval_steps": 3, "per_device_eval_batch_size": size}
        run = config(
            tmp_path / str(size), tiny_folder, rollouts_file, "dpo", data={"dev": str(rollouts_file)}, **options
        )
        losses.append(fit(run, quiet)["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_reference_with_another_vocabulary_is_refused(tmp_path, tiny_folder, rollouts_file, tokenizer):
    tokenizer = type(tokenizer).from_pretrained(tiny_folder)
    tokenizer.add_tokens(["extra"])
    model = tiny_model(tokenizer)
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ImplicitPRMError, match="vocabulary"):
        fit(
            config(tmp_path / "r", tiny_folder, rollouts_file, model_options={"reference": str(tmp_path / "other")}),
            quiet,
        )
