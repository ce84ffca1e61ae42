"""The trainer: same gradient however a batch is cut, the loss by hand, and it learns."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification, TrainingArguments

from implicit_prm.baselines.layouts import Layout, choose_tokens
from implicit_prm.baselines.run import fit
from implicit_prm.baselines.trainer import RewardModelTrainer
from implicit_prm.config import TextConfig
from implicit_prm.data.groups import load_groups
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models.checkpoint import BaselineMetadata
from implicit_prm.training import GroupDataset
from tests.baselines.runs import KINDS, baseline, labelled_file, quiet
from tests.conftest import tiny_model
from tests.runs import log


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_does_not_change_losses_or_weights(kind, tmp_path, tiny_folder):
    """4 prompts at once equal 4 times 1 prompt, although prompts differ in their number of labelled positions."""
    rollouts = labelled_file(tmp_path / "rows.jsonl")
    for name, trainer in (
        ("at_once", {}),
        ("one_by_one", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}),
    ):
        fit(baseline(tmp_path / name, tiny_folder, rollouts, kind, trainer=trainer), quiet)
    once, bits = log(tmp_path / "at_once"), log(tmp_path / "one_by_one")
    for key in ("loss", "grad_norm", "accuracy", "probability/good", "probability/bad"):
        found = [row[key] for row in bits if key in row]
        assert len(found) == 3
        assert found == pytest.approx([row[key] for row in once if key in row], rel=1e-3, abs=1e-6)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("at_once", "one_by_one")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=2e-4, rtol=1e-3)


def _step(tmp_path, tokenizer, kind, labels, rows, max_tokens=None, batches=1):
    """Loss and gradient of one optimiser step over all rows."""
    encoder = Encoder(tokenizer, TextConfig(steps="newline"))
    model = tiny_model(tokenizer)
    if kind != "next_token":
        config = model.config
        config.num_labels, config.classifier_dropout = 1, 0.0
        torch.manual_seed(1)
        model = AutoModelForTokenClassification.from_config(config)
    tokens = choose_tokens(encoder, 63) if kind == "next_token" else None
    layout = Layout(encoder, kind, tokens, labels)
    groups = [layout.group(group) for group in load_groups(str(rows))]
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    dataset = GroupDataset(groups, step_labels=True)
    trainer = RewardModelTrainer(
        model,
        arguments,
        BaselineMetadata(kind, labels, tokens=tokens),
        max_tokens,
        processing_class=tokenizer,
        train_dataset=dataset,
    )
    size = -(-len(groups) // batches)
    items = [dataset[place] for place in range(len(dataset))]
    parts = [{"groups": items[start : start + size]} for start in range(0, len(groups), size)]
    micro, units = trainer.get_batch_samples(iter(parts), batches, "cpu")
    loss = sum(float(trainer.training_step(model, one, units)) for one in micro)
    return loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), units


@pytest.mark.parametrize("kind", KINDS)
def test_small_pieces_have_the_same_gradient(kind, tmp_path, tokenizer):
    rows = labelled_file(tmp_path / "rows.jsonl", 4, 5)
    labels = "outcome" if kind == "orm" else "hard"
    whole, gradient, units = _step(tmp_path, tokenizer, kind, labels, rows)
    assert gradient.abs().sum() > 0
    assert units == (20 if kind == "orm" else sum(len(some) for g in load_groups(str(rows)) for some in g.step_labels))
    for max_tokens, batches in ((1, 1), (150, 2)):
        loss, again, _ = _step(tmp_path, tokenizer, kind, labels, rows, max_tokens, batches)
        assert loss == pytest.approx(whole, rel=1e-5)
        torch.testing.assert_close(again, gradient, atol=1e-6, rtol=1e-3)


def test_steps_that_nobody_labelled_neither_count_nor_pull(tmp_path, tokenizer):
    """Of two responses that begin alike, one has a single label: the mean is over the labels there are."""
    base = labelled_file(tmp_path / "base.jsonl", 2, 2)
    groups = load_groups(str(base))
    nothing = [[None] * len(some) for some in groups[0].step_labels]
    rows = labelled_file(tmp_path / "rows.jsonl", 2, 2)
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    lines[0]["step_labels"] = nothing
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    second = tmp_path / "second.jsonl"
    second.write_text(base.read_text().splitlines(keepends=True)[1])
    expected = _step(tmp_path, tokenizer, "value_head", "hard", second)
    found = _step(tmp_path, tokenizer, "value_head", "hard", rows)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[2] == expected[2] == sum(len(some) for some in groups[1].step_labels)
    torch.testing.assert_close(found[1], expected[1], atol=1e-6, rtol=1e-3)


def test_a_soft_label_is_a_soft_target(tmp_path, tokenizer):
    """Of logits near zero the loss is log 2, whatever the label; its gradient by the bias is sigmoid(0) - label."""
    rows = labelled_file(tmp_path / "rows.jsonl", 1, 2)
    line = json.loads(rows.read_text())
    line["step_labels"] = [[0.25] * len(some) for some in line["step_labels"]]
    rows.write_text(json.dumps(line) + "\n")
    biases = {}
    for labels in ("soft", "hard"):
        _, gradient, _ = _step(tmp_path, tokenizer, "value_head", labels, rows)
        biases[labels] = gradient[-1].item()  # the head's bias, whose gradient is the mean of probability - target
    assert biases["soft"] - biases["hard"] == pytest.approx(1 - 0.25, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_the_labels_it_is_given(kind, tmp_path, tiny_folder):
    rollouts = labelled_file(tmp_path / "rows.jsonl")
    trainer = {"max_steps": 40, "learning_rate": 1e-2}
    metrics = fit(
        baseline(
            *(tmp_path / "run", tiny_folder, rollouts, kind),
            **{"data": {"hold_out_prompts": 3}, "trainer": trainer},
        ),
        quiet,
    )
    rows = [row for row in log(tmp_path / "run") if "loss" in row]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.2
    assert rows[-1]["probability/good"] > rows[-1]["probability/bad"] + 0.1
    assert {"eval_loss", "eval_best_of_n/min", "eval_best_of_n/last", "eval_rewards/accuracies"} <= metrics.keys()
    assert math.isfinite(metrics["eval_loss"])
    assert 0 <= metrics["eval_best_of_n/min"] <= 1


def test_dev_metrics_by_hand(tmp_path, tokenizer):
    """The dev loss is per labelled position, and a prompt with fewer responses than others pads nothing into it."""
    encoder = Encoder(tokenizer, TextConfig(steps="newline"))
    model = tiny_model(tokenizer)
    tokens = choose_tokens(encoder, 63)
    layout = Layout(encoder, "next_token", tokens, "hard")
    few, many = labelled_file(tmp_path / "few.jsonl", 2, 2), labelled_file(tmp_path / "many.jsonl", 3, 4)
    groups = [layout.group(group) for file in (few, many) for group in load_groups(str(file))]
    results = []
    for size in (1, 5):
        arguments = TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", per_device_eval_batch_size=size, disable_tqdm=True
        )
        trainer = RewardModelTrainer(
            *(model, arguments, BaselineMetadata("next_token", "hard", tokens=tokens)),
            **{"processing_class": tokenizer, "eval_dataset": GroupDataset(groups, step_labels=True)},
        )
        results.append(trainer.evaluate())
    for key in ("eval_loss", "eval_rewards/accuracies", "eval_best_of_n/min", "eval_pass_at_1"):
        assert results[0][key] == pytest.approx(results[1][key], rel=1e-4)
    logits, targets = trainer._read(model, GroupDataset(groups, step_labels=True)[0], [0])
    assert len(logits) == len(targets) == len(groups[0].responses[0].step_labels)
