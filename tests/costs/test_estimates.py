"""`ipr-train ... estimate=...`: printed text and returned numbers."""

import functools
import json

import pytest

from implicit_prm.config import EstimateConfig, TrainConfig, from_mapping
from implicit_prm.costs.estimates import estimate
from implicit_prm.data.groups import load_groups
from implicit_prm.types import ImplicitPRMError
from tests.conftest import graded_rows, write_rows

MACHINE = {"machine": "a machine", "memory_gb": 24.0, "tflops": 2.0}

TRAINER = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "num_train_epochs": 2}


def config(folder, data="nowhere.jsonl", trainer=None, estimate=None, **options):
    values = {
        "model": {"name": str(folder)} | options.pop("model", {}),
        "data": {"train": str(data), "steps": "newline"},
        "loss": {"name": "ce"},
        "output_dir": "unused",
        "trainer": TRAINER | (trainer or {}),
        "estimate": MACHINE | (estimate or {}),
    }
    return from_mapping(TrainConfig, values | options)


def said(*args, **options):
    """The numbers and the text, cached since several tests use the same."""
    return _said(json.dumps([list(map(str, args)), options]))


@functools.cache
def _said(asked):
    (args, options), lines = json.loads(asked), []
    numbers = estimate(config(*args, **options), lines.append)
    return numbers, "\n".join(lines)


def test_local_data_is_counted(tmp_path, tiny_folder, tokenizer):
    data = write_rows(tmp_path / "rows.jsonl", graded_rows(6, 3))
    numbers, text = said(tiny_folder, data, max_tokens_per_batch=10_000)
    assert "6 prompts x 3 responses" in text
    assert "all prompts counted" in text
    assert "4 prompts x 3 responses = 12 responses" in text
    assert "3 steps" in text  # 6 prompts, twice, 4 a step
    rows = load_groups(str(data))
    longest = max(len(tokenizer(text)["input_ids"]) for group in rows for text in group.completions) + 1
    assert f"x {longest} after" in text
    # Two epochs of three passes each; the reference runs once.
    assert numbers["flops"]["training"] > 5 * numbers["flops"]["reference"] > 0
    assert numbers["seconds"]["training"] == numbers["flops"]["training"] / 2e12


def test_lengths_are_as_stated_without_local_data(tiny_folder):
    numbers, text = said(tiny_folder, estimate={"prompts": 50, "responses": 4, "longest_tokens": 5000})
    assert "data.train=nowhere.jsonl" in text
    assert "50 prompts x 4 responses, as stated: 130 + 370 tokens" in text
    assert "at most 256" in text  # the model's context
    assert "25 steps" in text
    more, _ = said(tiny_folder, estimate={"prompts": 100, "responses": 4, "longest_tokens": 5000})
    assert more["flops"]["training"] == pytest.approx(2 * numbers["flops"]["training"])
    steps, _ = said(tiny_folder, trainer={"max_steps": 25}, estimate={"prompts": 50, "responses": 4})
    assert steps["flops"]["training"] == pytest.approx(numbers["flops"]["training"])


def test_model_without_tokenizer_is_estimated_from_its_configuration(tmp_path, tiny_folder):
    (tmp_path / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    data = write_rows(tmp_path / "rows.jsonl", graded_rows(4, 2))
    _, text = said(tmp_path, data)
    assert "estimate.*" in text
    assert "10,000 prompts x 8 responses" in text


def test_lack_of_memory_is_reported_with_a_way_out(tiny_folder):
    _, text = said(tiny_folder, estimate={"memory_gb": 0.1})
    assert "does not fit 0.1 GB (typical: 8 x" in text
    assert "lower max_tokens_per_batch" in text
    assert "does not fit" not in said(tiny_folder)[1]


def test_bf16_is_estimated_without_hardware_support_and_saves_activations(tiny_folder):
    whole, half = (said(tiny_folder, trainer={"bf16": flag})[0]["memory"]["longest"] for flag in (False, True))
    assert half["activations"] < whole["activations"]
    assert half["weights"] == whole["weights"]
    rate = "the run is in float32"
    assert rate in said(tiny_folder)[1]
    assert rate not in said(tiny_folder, trainer={"bf16": True})[1]


def test_reference_costs_its_own_size_or_nothing(tmp_path, tiny_folder, other_folder):
    without, _ = said(tiny_folder, model={"reference": "none"})
    assert without["flops"]["reference"] == without["memory"]["longest"]["reference"] == 0
    named, _ = said(tiny_folder, model={"reference": str(other_folder)})
    assert named["memory"] == said(tiny_folder)[0]["memory"]  # it has the same size here


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"optim": "lomo"}}, "trainer.optim=lomo"),
        ({"trainer": {"learning_rat": 1}}, "trainer.learning_rate"),
        ({"estimate": {"processes": 8}}, "ddp, fsdp2 or zero3"),
        (
            {"estimate": {"processes": 2, "sharding": "zero3"}, "trainer": {"per_device_train_batch_size": 2}},
            "trainer.per_device_train_batch_size=1",
        ),
        ({"estimate": {"tflops": 0.0}}, "estimate.tflops is 0.0"),
        ({"estimate": {"prompts": 0}}, "estimate.prompts is 0"),
        ({"estimate": {"longest_tokens": 400}}, "prompt_tokens + response_tokens"),
        ({"estimate": {"sharding": "fsdp"}}, "none, ddp, fsdp2, zero3"),
    ],
)
def test_mistakes_are_named(changes, message, tiny_folder):
    with pytest.raises(ImplicitPRMError, match=message.replace("+", r"\+")):
        estimate(config(tiny_folder, **changes), print)


def test_rate_of_this_machine_is_measured(tiny_folder):
    numbers, text = said(tiny_folder, estimate={"tflops": None, "memory_gb": None, "longest_tokens": 500})
    assert numbers["tflops"] > 0
    assert "a machine (none)" in text


def test_estimate_needs_a_machine(tiny_folder):
    without = config(tiny_folder)
    without.estimate = None
    with pytest.raises(ImplicitPRMError, match="estimate=NAME"):
        estimate(without)
    assert EstimateConfig("m").sharding == "none"
