"""A group that is run in pieces, or row by row for DeepSpeed, gives the loss and the gradients of one pass."""

import random

import pytest
import torch
from transformers import TrainingArguments

from implicit_prm.config import CEConfig, DPOConfig, KTOConfig, NCAConfig, PrefixConfig, StepsConfig, TextConfig
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models.checkpoint import CheckpointMetadata
from implicit_prm.models.reference import fill
from implicit_prm.models.reference_cache import ReferenceCache
from implicit_prm.training import GroupDataset, GroupSampler, LogRatioTrainer, log_ratio_trainer
from implicit_prm.types import Group
from tests.conftest import graded_rows, tiny_model

LOSSES = [
    DPOConfig(),
    DPOConfig(pairing="one_to_one"),
    NCAConfig(),
    NCAConfig(form="group"),
    KTOConfig(),
    KTOConfig(form="paired"),
    CEConfig(),
    CEConfig(offset="group_mean"),
    CEConfig(offset="prompt_accuracy"),
    PrefixConfig(margin=0.5),
    StepsConfig(),
]


@pytest.fixture
def dataset(tokenizer, tmp_path):
    def build(loss):
        encoder = Encoder(tokenizer, TextConfig(steps="newline"))
        rows = graded_rows(4, 5)[1:]
        rows[0]["step_labels"][1] = None  # a response that nobody labelled, and a step
        rows[1]["step_labels"][0][1] = None
        groups = [
            Group(r["id"], r["prompt"], r["completions"], r["correctness"], r["finished"], step_labels=r["step_labels"])
            for r in rows
        ]
        encoded = [encoder.group(group, loss.needs_step_labels) for group in groups]
        mismatched = loss.name == "kto" and not loss.needs_pairs
        built = GroupDataset(encoded, mismatched, step_labels=loss.needs_step_labels)
        built.cache = ReferenceCache({"weights": "reference"}, tmp_path)
        fill(built.cache, tiny_model(tokenizer), built.requests(), max_tokens=500)
        return built

    return build


def _step(dataset, tokenizer, tmp_path, loss, max_tokens, rows=False):
    """Loss and gradient of one optimiser step of all groups; the policy is not the reference."""
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    policy = tiny_model(tokenizer, seed=1)
    trainer = LogRatioTrainer(
        policy,
        arguments,
        loss,
        CheckpointMetadata(0.5, "r"),
        max_tokens,
        processing_class=tokenizer,
        train_dataset=dataset,
    )
    trainer.model_wrapped = policy
    batch = {"groups": [dataset[place] for place in range(len(dataset))]}
    batches, units = trainer.get_batch_samples(iter([batch]), 1, "cpu")
    if rows:
        value = trainer.compute_loss(policy.train(), batches[0], num_items_in_batch=units)
        value.backward()
    else:
        value = trainer.training_step(policy, batches[0], units)
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    return float(value), gradient


def _name(loss):
    return f"{loss.name}-{getattr(loss, 'form', getattr(loss, 'offset', ''))}"


@pytest.mark.parametrize("loss", LOSSES, ids=_name)
def test_log_ratio_trainer_and_rows_give_the_gradient_of_one_pass(loss, dataset, tokenizer, tmp_path):
    built = dataset(loss)
    value, gradient = _step(built, tokenizer, tmp_path, loss, max_tokens=10_000)
    assert gradient.norm() > 1e-3
    for options in ({"max_tokens": 60}, {"max_tokens": 1}, {"max_tokens": 10_000, "rows": True}):
        other, its_gradient = _step(built, tokenizer, tmp_path, loss, **options)
        assert other == pytest.approx(value, rel=1e-5)
        assert (its_gradient - gradient).norm() < 1e-4 * gradient.norm()


def test_all_pieces_but_the_first_of_a_group_run_twice(dataset, tokenizer, tmp_path, monkeypatch):
    forward, runs = LogRatioTrainer._piece_rewards, []

    def observed(trainer, prompt, rows, piece):
        runs.append((torch.is_grad_enabled(), max(len(rows.ids[place]) for place in piece)))
        return forward(trainer, prompt, rows, piece)

    monkeypatch.setattr(LogRatioTrainer, "_piece_rewards", observed)
    built = dataset(DPOConfig())
    _step(built, tokenizer, tmp_path, DPOConfig(), max_tokens=1)  # a piece is a response
    groups = [sorted(len(ids) for ids in built[place].rows.ids) for place in range(len(built))]
    assert sorted(length for grad, length in runs if grad) == sorted(n for lengths in groups for n in lengths)
    assert sorted(length for grad, length in runs if not grad) == sorted(n for lengths in groups for n in lengths[:-1])


def test_a_single_response_is_a_plain_row(dataset, tokenizer, tmp_path, monkeypatch):
    groups, loss = dataset(CEConfig()), CEConfig()
    single = [groups[place].take([0]) for place in range(len(groups))]
    value, gradient = _step(single, tokenizer, tmp_path, loss, max_tokens=10_000, rows=True)
    monkeypatch.setattr(log_ratio_trainer, "open_prompt", None)  # it encodes a prompt to share
    other, its_gradient = _step(single, tokenizer, tmp_path, loss, max_tokens=10_000)
    assert other == pytest.approx(value, rel=1e-5)
    assert (its_gradient - gradient).norm() < 1e-4 * gradient.norm()


@pytest.mark.parametrize("loss", LOSSES, ids=_name)
def test_the_dev_loss_is_that_of_training(loss, dataset, tokenizer, tmp_path):
    """Evaluation and a training step agree on what the same policy's groups are worth, per unit."""
    built = dataset(loss)
    value, _ = _step(built, tokenizer, tmp_path, loss, max_tokens=10_000)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    policy = tiny_model(tokenizer, seed=1)
    trainer = LogRatioTrainer(
        policy, arguments, loss, CheckpointMetadata(0.5, "r"), 60, processing_class=tokenizer, train_dataset=built
    )
    trainer.model_wrapped = policy
    batch = {"groups": [built[place] for place in range(len(built))]}
    assert trainer.prediction_step(policy, batch, False)[0].item() == pytest.approx(value, rel=1e-4)


def test_the_sampler_leaves_no_group_out_and_takes_none_twice():
    sampler = GroupSampler(13, 4, seed=1)
    first = list(sampler)
    assert len(first) == len(sampler) == 16
    assert sorted(first) == [*range(13), 13, 13, 13]
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(GroupSampler(3, 1, seed=1, shuffle=False)) == [0, 1, 2]


@pytest.mark.parametrize(("processes", "batch", "accumulation"), [(2, 1, 4), (4, 2, 1), (3, 2, 2)])
def test_processes_get_as_many_tokens_in_every_step(processes, batch, accumulation):
    rng = random.Random(0)
    tokens = [round(rng.lognormvariate(6, 0.7)) for _ in range(101)]
    multiple = processes * batch
    items = list(GroupSampler(101, multiple, 1, processes=processes, accumulation=accumulation, tokens=tokens))
    drawn = list(GroupSampler(101, multiple, 1))
    window = multiple * accumulation
    differences = {"drawn": [], "balanced": []}
    for start in range(0, len(items), window):
        steps = {"drawn": drawn[start : start + window], "balanced": items[start : start + window]}
        assert sorted(steps["drawn"]) == sorted(steps["balanced"])
        for name, step in steps.items():
            batches = [
                sum([*tokens, 0][n] for n in step[place : place + batch]) for place in range(0, len(step), batch)
            ]
            load = [sum(batches[process::processes]) for process in range(processes)]
            differences[name].append(max(load) - min(load))
    assert sum(differences["balanced"]) < 0.5 * sum(differences["drawn"])


@pytest.mark.parametrize("loss", LOSSES, ids=_name)
def test_a_process_without_a_prompt_adds_nothing_to_a_deepspeed_step(loss, dataset, tokenizer, tmp_path):
    """At the end of an epoch whose prompts do not divide, it runs a row without a response."""
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    policy, built = tiny_model(tokenizer), dataset(loss)
    trainer = LogRatioTrainer(
        policy, arguments, loss, CheckpointMetadata(0.5, "r"), 60, processing_class=tokenizer, train_dataset=built
    )
    trainer._kl = torch.zeros(2)
    total = trainer.compute_loss(policy, {"groups": [built[len(built)]]}, num_items_in_batch=torch.tensor(6.0))
    total.backward()
    assert total.item() == 0
    assert not any(parameter.grad.any() for parameter in policy.parameters() if parameter.grad is not None)
