"""Losses, data and the trainer's options."""

import pytest

from implicit_prm.config import DataConfig, TextConfig, TrainConfig, from_mapping
from tests.config.examples import TRAIN, assert_refused, changed


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ({"name": "nca", "form": "group", "pairing": "one_to_one"}, ["loss.pairing", "loss.form=group"]),
        ({"name": "kto", "desirable_weight": 0.0}, ["loss.desirable_weight is 0.0"]),
        ({"name": "kto", "desirable_weight": float("nan")}, ["loss.desirable_weight is nan"]),
        ({"name": "kto", "undesirable_weight": -1}, ["loss.undesirable_weight is -1.0"]),
        ({"name": "prefix", "margin": -1}, ["loss.margin is -1.0"]),
        ({"name": "prefix", "margin": float("nan")}, ["loss.margin is nan"]),
        ({"name": "prefix", "margin": float("inf")}, ["loss.margin is inf"]),
        ({"name": "kto", "form": "paired", "batch_unit": "response"}, ["loss.batch_unit=response", "loss.form=paired"]),
        ({"name": "ce", "offset": "group_mean", "batch_unit": "response"}, ["loss.batch_unit=response", "loss.offset"]),
        (
            {"name": "ce", "offset": "prompt_accuracy", "balance": "prompt"},
            ["loss.balance=prompt", "loss.offset=prompt_accuracy"],
        ),
    ],
)
def test_invalid_losses_are_refused(loss, words):
    assert_refused(TrainConfig, changed(TRAIN, loss=loss), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": {"name": "kto"}, "data__max_prompts": 1}, ["loss=kto", "two prompts"]),
        ({"data__prompt_template": "Solve it."}, ["data.prompt_template", "{problem}"]),
        ({"data__train": ""}, ["data.train is empty"]),
        ({"data": {}}, ["data.train: missing"]),
        ({"data__dev": "dev.jsonl", "data__hold_out_prompts": 5}, ["data.dev", "data.hold_out_prompts"]),
        ({"data__dev_revision": "main"}, ["data.dev_revision=main", "data.dev"]),
        ({"data__max_length": -1}, ["data.max_length is -1"]),
        ({"data__max_prompts": 0}, ["data.max_prompts is 0"]),
        ({"data__max_responses": -3}, ["data.max_responses is -3"]),
        ({"data__hold_out_prompts": -1}, ["data.hold_out_prompts is -1"]),
        ({"max_tokens_per_batch": -1}, ["max_tokens_per_batch is -1"]),
        ({"push_to_hub": "a/b/c"}, ["push_to_hub=a/b/c", "ORG/NAME"]),
        ({"trainer": {"output_dir": "x"}}, ["trainer.output_dir"]),
        ({"trainer": {"eval_strategy": "steps"}}, ["trainer.eval_strategy=steps", "data.dev"]),
    ],
)
def test_invalid_runs_are_refused(changes, words):
    assert_refused(TrainConfig, changed(TRAIN, **changes), *words)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"name": "nca", "form": "group", "pairing": "all"}},
        {"loss": {"name": "kto", "form": "paired"}, "data__max_prompts": 1},
        {"loss": {"name": "ce", "offset": "prompt_accuracy", "balance": "dataset"}},
        {"trainer": {"eval_strategy": "steps"}, "data__dev": "dev.jsonl"},
        {"trainer": {"eval_strategy": "steps"}, "data__hold_out_prompts": 5},
        {"trainer": {"eval_strategy": "no"}},
    ],
)
def test_valid_runs_are_accepted(changes):
    from_mapping(TrainConfig, changed(TRAIN, **changes))


def test_text_options_of_the_data():
    data = from_mapping(DataConfig, {"train": "f", "steps": "newline", "prompt_template": "raw:{problem}\n"})
    assert data.text == TextConfig("newline", "raw:{problem}\n", None)
