"""Training that starts from a LoRA adapter or an implicit PRM, and the reference that it uses."""

import math
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.integrations import deepspeed

from implicit_prm import ImplicitPRM, ImplicitPRMError, fit
from implicit_prm.config import ModelConfig
from implicit_prm.models.checkpoint import CheckpointMetadata
from implicit_prm.models.loading import open_model
from implicit_prm.models.source import ModelSource
from implicit_prm.rewards.implicit_reward import sigmoid
from implicit_prm.training import initial_model
from tests.conftest import graded_rows, tiny_model, write_rows
from tests.runs import adapter, config, log, loglikelihood, quiet, scores, weights

LORA = {"lora": {"r": 2, "alpha": 4}}


@pytest.fixture(scope="module")
def start(tmp_path_factory, tiny_folder):
    return adapter(tmp_path_factory.mktemp("start") / "adapter", tiny_folder)


def test_an_adapter_needs_a_named_reference(tmp_path, start, tiny_folder, rollouts_file):
    with pytest.raises(ImplicitPRMError) as refused:
        fit(config(tmp_path / "run", start, rollouts_file), quiet)
    for choice in ("model.reference=start", f"model.reference={tiny_folder}", "another model, or none"):
        assert choice in str(refused.value)
    assert not (tmp_path / "run" / "start").exists()


@pytest.mark.parametrize("model", [pytest.param(LORA, id="lora"), pytest.param({}, id="full", marks=pytest.mark.slow)])
def test_reference_start_is_the_merged_adapter_and_the_checkpoint_is_self_contained(
    model, tmp_path, start, tiny_folder, rollouts_file
):
    own = shutil.copytree(start, tmp_path / "adapter")
    options = {"learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 2}
    fit(config(tmp_path / "run", own, rollouts_file, model_options={**model, "reference": "start"}, **options), quiet)
    first = log(tmp_path / "run")[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)  # policy and reference start equal
    before = [scores(tmp_path / "run" / name) for name in (".", "checkpoint-2")]
    assert max(map(abs, before[0][0])) > 1e-3
    assert before[0][1] == pytest.approx(loglikelihood(tmp_path / "run" / "start"), abs=1e-4)
    base_and_adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), start)
    for name, weight in base_and_adapter.merge_and_unload().state_dict().items():
        torch.testing.assert_close(weights(tmp_path / "run" / "start")[name], weight, atol=1e-6, rtol=1e-5)
    shutil.rmtree(own)  # the checkpoint does not need it, and can be moved
    shutil.move(tmp_path / "run", tmp_path / "moved")
    for name, (rewards, references) in zip((".", "checkpoint-2"), before, strict=True):
        again = scores(tmp_path / "moved" / name)
        assert again[0] == pytest.approx(rewards, abs=1e-6)
        assert again[1] == pytest.approx(references, abs=1e-6)


def test_the_base_alone_can_be_the_reference(tmp_path, start, tiny_folder, rollouts_file):
    run = config(tmp_path / "run", start, rollouts_file, model_options={**LORA, "reference": str(tiny_folder)})
    fit(run, quiet)
    assert log(tmp_path / "run")[0]["loss"] != pytest.approx(math.log(2), abs=1e-3)
    assert scores(tmp_path / "run")[1] == pytest.approx(loglikelihood(tiny_folder), abs=1e-4)
    # Plain PEFT finds the same base by the adapter's own file.
    ours = ImplicitPRM.from_pretrained(tmp_path / "run", device="cpu").policy
    named = ours.peft_config["default"].base_model_name_or_path
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(named), tmp_path / "run")
    ids = torch.arange(3, 23)[None]
    torch.testing.assert_close(plain(ids).logits, ours(ids).logits)


def test_a_start_folder_of_another_run_is_replaced(tmp_path, start, tiny_folder, rollouts_file):
    shutil.copytree(tiny_folder, tmp_path / "run" / "start")
    fit(config(tmp_path / "run", start, rollouts_file, model_options={"reference": "start"}, max_steps=1), quiet)
    assert loglikelihood(tmp_path / "run" / "start") == pytest.approx(loglikelihood(start), abs=1e-4)


def test_resuming_needs_the_same_adapter(tmp_path, start, tiny_folder, rollouts_file):
    options = {"model_options": {**LORA, "reference": "start"}, "save_strategy": "steps", "save_steps": 1}
    fit(config(tmp_path / "run", start, rollouts_file, **options), quiet)
    named = {**options, "resume_from_checkpoint": str(tmp_path / "run" / "checkpoint-1")}
    fit(config(tmp_path / "again", start, rollouts_file, **named), quiet)
    losses = [[row["loss"] for row in log(tmp_path / name) if "loss" in row] for name in ("run", "again")]
    assert losses[1] == pytest.approx(losses[0][1:], abs=1e-6)
    other = adapter(tmp_path / "other", tiny_folder, seed=4)
    with pytest.raises(ImplicitPRMError, match=r"start=.*adapter.*start=.*other"):
        fit(config(tmp_path / "third", other, rollouts_file, **named), quiet)
    options["model_options"] = {"lora": {"r": 2, "alpha": 8}, "reference": "start"}
    with pytest.raises(ImplicitPRMError, match="lora="):
        fit(config(tmp_path / "fourth", start, rollouts_file, **{**named, **options}), quiet)


CONTINUE = {"reference": "checkpoint", "beta": None}
WHOLE = {"per_device_train_batch_size": 12, "learning_rate": 5e-3}  # all prompts in a step


@pytest.fixture(scope="module")
def first_stages(tmp_path_factory, tiny_folder):
    """Implicit PRMs to continue: full weights, an adapter, an adapter on a merged start, and without a reference."""
    folder = tmp_path_factory.mktemp("first")
    rows = write_rows(folder / "rows.jsonl", graded_rows(12, 4))
    old = adapter(folder / "old", tiny_folder)
    fit(config(folder / "full", tiny_folder, rows, **WHOLE), quiet)
    fit(config(folder / "lora", tiny_folder, rows, model_options=LORA, **WHOLE), quiet)
    fit(config(folder / "again", old, rows, model_options={**LORA, "reference": "start"}, **WHOLE), quiet)
    fit(config(folder / "none", tiny_folder, rows, model_options={"reference": "none"}, **WHOLE), quiet)
    shutil.move(folder / "again", folder / "moved")  # its base is inside
    return folder


def _step_error(checkpoint):
    """Mean of (sigmoid(step reward) - label)^2 over all steps, with the rewards that a checkpoint scores."""
    prm = ImplicitPRM.from_pretrained(checkpoint, device="cpu")
    errors = []
    for row in graded_rows(12, 4):
        for score, labels in zip(prm.score(row["prompt"], row["completions"]), row["step_labels"], strict=True):
            errors += [(sigmoid(r) - label) ** 2 for r, label in zip(score.step_rewards, labels, strict=True)]
    return sum(errors) / len(errors)


@pytest.mark.parametrize(
    ("stage", "model", "reference"),
    [
        ("full", {}, "tiny"),
        ("full", LORA, "tiny"),
        ("lora", {}, "tiny"),
        ("lora", LORA, "tiny"),
        ("moved", LORA, "moved/start"),
        ("none", {}, "none"),
    ],
)
def test_a_second_stage_continues_the_reward_of_the_first(stage, model, reference, tmp_path, first_stages, tiny_folder):
    start, rows = first_stages / stage, first_stages / "rows.jsonl"
    fit(config(tmp_path / "run", start, rows, "steps", model_options={**model, **CONTINUE}, **WHOLE), quiet)
    first = log(tmp_path / "run")[0]
    assert first["loss"] == pytest.approx(_step_error(start), abs=1e-5)
    if stage != "none":  # without a reference, sums of logs are far below zero
        assert abs(first["loss"] - 0.25) > 1e-3
    metadata = ImplicitPRM.from_pretrained(tmp_path / "run", device="cpu").metadata
    named = {"tiny": str(tiny_folder), "none": "none"}.get(reference, str(first_stages / reference))
    assert (metadata.beta, metadata.reference, metadata.start) == (0.5, named, str(start))
    assert _step_error(tmp_path / "run") < _step_error(start)


def test_code_of_a_checkpoints_reference_runs_only_if_it_is_named(tmp_path, coded_folder, tiny_folder, rollouts_file):
    code, has_run = coded_folder
    ImplicitPRM.from_pretrained(tiny_folder, reference="none", beta=0.5).save_pretrained(tmp_path / "prm")
    CheckpointMetadata(0.5, str(code)).write(tmp_path / "prm")
    options = {**CONTINUE, "trust_remote_code": True}
    with pytest.raises(ImplicitPRMError, match=f"reference={code}"):
        fit(config(tmp_path / "run", tmp_path / "prm", rollouts_file, model_options=options), quiet)
    assert not has_run()
    options |= {"reference": str(code), "beta": 0.5}
    fit(config(tmp_path / "run", tmp_path / "prm", rollouts_file, model_options=options, max_steps=1), quiet)
    assert has_run()


def test_an_implicit_prm_needs_a_named_reference(tmp_path, first_stages):
    start, rows = first_stages / "full", first_stages / "rows.jsonl"
    with pytest.raises(ImplicitPRMError) as refused:
        fit(config(tmp_path / "run", start, rows), quiet)
    for words in ("is an implicit PRM (beta 0.5, reference", "model.reference=checkpoint model.beta=null", "or none"):
        assert words in str(refused.value)
    with pytest.raises(ImplicitPRMError, match=r"\(beta 0.5, reference its base\)"):
        fit(config(tmp_path / "run", first_stages / "lora", rows), quiet)
    fit(config(tmp_path / "run", start, rows, "steps", model_options={"reference": "start"}), quiet)
    assert log(tmp_path / "run")[0]["loss"] == pytest.approx(0.25, abs=1e-5)  # a new reward, all zero
    assert ImplicitPRM.from_pretrained(tmp_path / "run", device="cpu").metadata.reference == str(start)


def test_beta_travels_with_the_reward(tmp_path, first_stages, tiny_folder):
    start, rows = first_stages / "full", first_stages / "rows.jsonl"
    fit(config(tmp_path / "run", start, rows, model_options={"reference": "checkpoint", "beta": 0.5}), quiet)
    with pytest.raises(ImplicitPRMError, match=r"model.beta=0.1.* 0.5.*model.beta=null"):
        fit(config(tmp_path / "other", start, rows, model_options={"reference": "checkpoint", "beta": 0.1}), quiet)
    with pytest.raises(ImplicitPRMError, match=r"model.reference=checkpoint .*model.name=.*tiny"):
        fit(config(tmp_path / "other", tiny_folder, rows, model_options=CONTINUE), quiet)


def test_resuming_a_second_stage_needs_the_same_data(tmp_path, first_stages):
    start, rows = first_stages / "lora", first_stages / "rows.jsonl"
    options = {"model_options": {**LORA, **CONTINUE}, "save_strategy": "steps", "save_steps": 1}
    fit(config(tmp_path / "run", start, rows, "steps", **options), quiet)
    named = {**options, "resume_from_checkpoint": str(tmp_path / "run" / "checkpoint-1")}
    fit(config(tmp_path / "again", start, rows, "steps", **named), quiet)
    losses = [[row["loss"] for row in log(tmp_path / name) if "loss" in row] for name in ("run", "again")]
    assert losses[1] == pytest.approx(losses[0][1:], abs=1e-6)
    changed = graded_rows(12, 4)
    changed[3]["step_labels"][0][0] = 0.5
    other = write_rows(tmp_path / "changed.jsonl", changed)
    with pytest.raises(ImplicitPRMError, match="data_fingerprint="):
        fit(config(tmp_path / "third", start, other, "steps", **named), quiet)


def test_lora_and_gradient_checkpointing(tmp_path, tiny_folder, rollouts_file):
    losses = []
    for name in (False, True):
        options = {"gradient_checkpointing": name, "learning_rate": 1e-2}
        fit(config(tmp_path / str(name), tiny_folder, rollouts_file, model_options=LORA, **options), quiet)
        losses.append([row["loss"] for row in log(tmp_path / str(name)) if "loss" in row])
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert losses[0][-1] != pytest.approx(math.log(2), abs=1e-3)


def test_the_tokenizer_must_match_the_model(tmp_path, tokenizer, rollouts_file):
    model = tiny_model(tokenizer)
    model.resize_token_embeddings(40)
    model.save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    with pytest.raises(ImplicitPRMError, match=r"small.* 63 tokens.*embeds 40"):
        fit(config(tmp_path / "run", tmp_path / "small", rollouts_file), quiet)
    with pytest.raises(ImplicitPRMError, match=r"small.* 63 tokens"):
        ImplicitPRM.from_pretrained(tmp_path / "small", reference="none", beta=1.0)


def test_an_added_token_outside_of_prompts_needs_no_embedding(tmp_path, tokenizer):
    tokenizer = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    tiny_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(tmp_path)
    assert open_model(ModelSource.resolve(tmp_path)).config.vocab_size < len(tokenizer)
    assert all(math.isfinite(value) for value in loglikelihood(tmp_path))


class _Stage3:
    """The part of DeepSpeed's config that transformers reads to detect ZeRO-3."""

    def is_zero3(self):
        return True


def test_under_zero3_the_reference_is_opened_whole(tiny_folder, monkeypatch):
    seen = []

    def opening(*args, **options):
        seen.append(deepspeed.is_deepspeed_zero3_enabled())
        return open_model(*args, **options)

    monkeypatch.setattr(initial_model.loading, "open_model", opening)
    initial = initial_model.InitialModel(ModelConfig(str(tiny_folder)), ModelSource.resolve(tiny_folder))
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    assert initial_model.open_reference(initial, tokenizer) is None  # the untrained policy can be used
    stage3 = _Stage3()
    deepspeed.set_hf_deepspeed_config(stage3)
    try:
        assert initial_model.open_reference(initial, tokenizer) is not None
        assert seen == [False]
        assert deepspeed.is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()
