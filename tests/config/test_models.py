"""Models, adapters and text options."""

import pytest

from implicit_prm.config import MergeConfig, TextConfig, TrainConfig, from_mapping
from tests.config.examples import TRAIN, assert_refused, changed


@pytest.mark.parametrize("beta", [0, -0.1, float("nan"), float("inf"), 1e308])
def test_beta_is_above_zero_and_keeps_rewards_finite(beta):
    assert_refused(TrainConfig, changed(TRAIN, model__beta=beta), "model.beta is")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__beta": None, "model__reference": "start"}, ["model.beta=None", "model.reference=checkpoint"]),
        ({"model__reference": "checkpoint", "model__reference_revision": "main"}, ["model.reference_revision"]),
        ({"model__reference_revision": "main"}, ["model.reference_revision"]),
        ({"model__reference": "none", "model__reference_revision": "main"}, ["model.reference_revision"]),
        ({"model__quantization": "4bit"}, ["model.quantization=4bit", "model.lora"]),
        ({"model__lora": {"r": 0}}, ["model.lora.r is 0"]),
        ({"model__lora": {"alpha": -1}}, ["model.lora.alpha is -1"]),
        ({"model__lora": {"dropout": 1.0}}, ["model.lora.dropout is 1.0"]),
        ({"model__lora": {"dropout": -0.1}}, ["model.lora.dropout is -0.1"]),
    ],
)
def test_invalid_models_are_refused(changes, words):
    assert_refused(TrainConfig, changed(TRAIN, **changes), *words)


@pytest.mark.parametrize(
    "changes",
    [
        {"model__reference": "other", "model__reference_revision": "main"},
        {"model__reference": "checkpoint", "model__beta": None},
        {"model__reference": "checkpoint"},
        {"model__quantization": "4bit", "model__lora": {}},
    ],
)
def test_valid_models_are_accepted(changes):
    from_mapping(TrainConfig, changed(TRAIN, **changes))


def test_a_prompt_template_needs_the_problem():
    assert_refused(TextConfig, {"prompt_template": "{question}"}, "prompt_template", "{problem}")
    assert from_mapping(TextConfig, {"prompt_template": "raw:{problem}\n"}).prompt_template == "raw:{problem}\n"


@pytest.mark.parametrize("name", ["prompt_template", "system_prompt"])
def test_half_a_surrogate_pair_is_refused(name):
    assert_refused(TextConfig, {name: "{problem}\udcff"}, name)


def test_a_merge_needs_both_folders():
    assert from_mapping(MergeConfig, {"checkpoint": "c", "output_dir": "o"}).dtype == "float32"
    assert_refused(MergeConfig, {"checkpoint": "c"}, "output_dir: missing")
    assert_refused(MergeConfig, {"output_dir": "o"}, "checkpoint: missing")
