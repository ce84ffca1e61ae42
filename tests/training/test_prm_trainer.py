"""The trainer as TRL's users know it: a model, a dataset, arguments; the same run as ipr-train."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from implicit_prm import ImplicitPRM, ImplicitPRMConfig, ImplicitPRMError, ImplicitPRMTrainer, fit
from tests.conftest import graded_rows, tiny_model
from tests.runs import PROBLEM, RESPONSES, config, log, quiet

OPTIONS = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-3,
    "max_steps": 3,
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
}
# transformers' own defaults, which `fit` has where `trainer` does not say otherwise.
DEFAULTS = {"lr_scheduler_type": "linear", "lr_scheduler_kwargs": None, "warmup_steps": 0, "adam_beta2": 0.999}


def arguments(folder, **options):
    return ImplicitPRMConfig(output_dir=str(folder), **{"beta": 0.5, "steps": "newline", **OPTIONS, **options})


def metadata(folder):
    return json.loads((folder / "implicit_prm.json").read_text())


def assert_same_model(ours, theirs):
    (file,) = theirs.glob("*model.safetensors")
    expected = load_file(file)
    found = load_file(ours / file.name)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8, "dropout": 0.1}], ids=["full", "lora"])
@pytest.mark.parametrize("loss", ["ce", "dpo", "kto"])
def test_the_same_run_as_ipr_train(loss, lora, tmp_path, tiny_folder, rollouts_file):
    options = DEFAULTS | {"optim": "adamw_torch", "learning_rate": 5e-3}
    run = config(tmp_path / "fit", tiny_folder, rollouts_file, loss, model_options={"lora": lora}, **options)
    fit(run, quiet)
    peft_config = lora and LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear")
    trainer = ImplicitPRMTrainer(
        model=str(tiny_folder),
        args=arguments(tmp_path / "trainer", loss=loss, **options),
        train_dataset=load_dataset("json", data_files=str(rollouts_file), split="train"),
        peft_config=peft_config,
    )
    trainer.train()
    trainer.save_model()
    assert_same_model(tmp_path / "trainer", tmp_path / "fit")
    assert metadata(tmp_path / "trainer") == metadata(tmp_path / "fit")
    losses = [[row["loss"] for row in log(tmp_path / name) if "loss" in row] for name in ("trainer", "fit")]
    assert losses[0] == losses[1]
    scores = [ImplicitPRM.from_pretrained(tmp_path / name).score(PROBLEM, RESPONSES) for name in ("trainer", "fit")]
    assert scores[0] == scores[1]


def trl_rows(form):
    rows = []
    for row in graded_rows(6, 4):
        responses = list(zip(row["completions"], row["correctness"], strict=True))
        if form == "unpaired":
            rows += [{"prompt": row["prompt"], "completion": text, "label": label} for text, label in responses]
        else:
            chosen = [text for text, label in responses if label]
            rejected = [text for text, label in responses if not label]
            pairs = zip(chosen, rejected, strict=False)
            rows += [{"prompt": row["prompt"], "chosen": good, "rejected": bad} for good, bad in pairs]
    return Dataset.from_list(rows)


@pytest.mark.parametrize("loss", ["kto", "dpo"])
@pytest.mark.parametrize("form", ["unpaired", "paired"])
def test_datasets_in_trl_columns(form, loss, tmp_path, tiny_folder):
    dataset = trl_rows(form)
    options = {"eval_strategy": "steps", "eval_steps": 2}
    args = arguments(tmp_path, loss=loss, **options)
    trainer = ImplicitPRMTrainer(str(tiny_folder), args=args, train_dataset=dataset, eval_dataset=dataset)
    trainer.train()
    assert "eval_rewards/margins" in trainer.evaluate()
    trainer.save_model()
    assert ImplicitPRM.from_pretrained(tmp_path).metadata.loss["name"] == loss


def test_a_model_object_trains_as_its_name_does(tmp_path, tiny_folder):
    for name, model in {"name": str(tiny_folder), "object": AutoModelForCausalLM.from_pretrained(tiny_folder)}.items():
        trainer = ImplicitPRMTrainer(model, args=arguments(tmp_path / name), train_dataset=graded_rows(6, 4))
        trainer.train()
        trainer.save_model()
    assert_same_model(tmp_path / "object", tmp_path / "name")
    assert metadata(tmp_path / "object") == metadata(tmp_path / "name")


def test_a_peft_model_trains_its_own_adapter(tmp_path, tiny_folder):
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_folder), copy.deepcopy(lora))
    trainer = ImplicitPRMTrainer(model, args=arguments(tmp_path), train_dataset=graded_rows(6, 4))
    trainer.train()
    trainer.save_model()
    prm = ImplicitPRM.from_pretrained(tmp_path)
    assert prm.metadata.reference == "adapter_off"
    assert (tmp_path / "adapter_model.safetensors").exists()
    assert log(tmp_path)[0]["rewards/accuracies"] == 0.5
    with pytest.raises(ImplicitPRMError, match="peft_config"):
        ImplicitPRMTrainer(model, args=arguments(tmp_path), train_dataset=graded_rows(6, 4), peft_config=lora)


def test_a_model_without_a_name_is_saved_as_the_start(tmp_path, tokenizer):
    args = arguments(tmp_path)
    with pytest.raises(ImplicitPRMError, match="processing_class"):
        ImplicitPRMTrainer(tiny_model(tokenizer), args=args, train_dataset=graded_rows(6, 4))
    trainer = ImplicitPRMTrainer(
        tiny_model(tokenizer, seed=7), args=args, train_dataset=graded_rows(6, 4), processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model()
    assert metadata(tmp_path)["reference"] == "./start"
    assert log(tmp_path)[0]["rewards/accuracies"] == 0.5
    assert ImplicitPRM.from_pretrained(tmp_path).score(PROBLEM, RESPONSES)


def test_changed_weights_never_meet_the_log_probabilities_of_others(tmp_path, tiny_folder):
    """A model object that was changed after it was loaded is not what its name stands for."""
    for scale in (1.0, 2.0):
        model = AutoModelForCausalLM.from_pretrained(tiny_folder)
        with torch.no_grad():
            model.lm_head.weight *= scale
        trainer = ImplicitPRMTrainer(model, args=arguments(tmp_path / str(scale)), train_dataset=graded_rows(6, 4))
        trainer.train()
        assert log(tmp_path / str(scale))[0]["forward_kl"] == pytest.approx(0, abs=1e-3)


def test_reference_models(tmp_path, tiny_folder, other_folder):
    logs = {}
    references = {
        "name": str(other_folder),
        "object": AutoModelForCausalLM.from_pretrained(other_folder),
        "none": "none",
        "initial": None,
    }
    for name, reference in references.items():
        args = arguments(tmp_path / name, max_steps=1)
        trainer = ImplicitPRMTrainer(str(tiny_folder), reference, args, graded_rows(6, 4))
        trainer.train()
        trainer.save_model()
        logs[name] = log(tmp_path / name)[0]["rewards/chosen"]
    assert logs["name"] == logs["object"] != logs["none"]
    assert logs["initial"] == pytest.approx(0, abs=1e-4)
    assert metadata(tmp_path / "object")["reference"] == str(other_folder)
    assert metadata(tmp_path / "none")["reference"] == "none"


def test_resuming_checks_that_it_is_the_same_run(tmp_path, tiny_folder):
    options = {"save_strategy": "steps", "save_steps": 1}
    ImplicitPRMTrainer(str(tiny_folder), args=arguments(tmp_path, **options), train_dataset=graded_rows(6, 4)).train()
    longer = arguments(tmp_path, **options | {"max_steps": 5})
    trainer = ImplicitPRMTrainer(str(tiny_folder), args=longer, train_dataset=graded_rows(6, 4))
    assert trainer.train(resume_from_checkpoint=True).global_step == 5
    other = arguments(tmp_path, beta=0.1, **options)
    trainer = ImplicitPRMTrainer(str(tiny_folder), args=other, train_dataset=graded_rows(6, 4))
    with pytest.raises(ImplicitPRMError, match="beta"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"loss": "ppo"}, "loss=ppo"),
        ({"loss": "kto", "loss_kwargs": {"desirable_wight": 2.0}}, "loss_kwargs.desirable_wight"),
        ({"loss": "kto", "loss_kwargs": {"desirable_weight": -1.0}}, "desirable_weight"),
        ({"steps": "sentence"}, "steps"),
        ({"prompt_template": "Solve it."}, "prompt_template"),
        ({"max_length": 0}, "max_length=0"),
        ({"max_length": 20}, r"Set too_long=drop .* The limit is max_length"),
        ({"max_length": 20, "too_long": "drop"}, "; raise max_length"),
        ({"use_liger_kernel": True}, "use_liger_kernel"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"metric_for_best_model": "accuracy"}, "metric_for_best_model=accuracy"),
        ({"beta": 0.0}, "beta"),
        ({"model_init_kwargs": {"device_map": "auto"}}, "device_map"),
    ],
)
def test_invalid_arguments_are_refused_by_name(options, name, tmp_path, tiny_folder):
    with pytest.raises(ImplicitPRMError, match=name):
        ImplicitPRMTrainer(str(tiny_folder), args=arguments(tmp_path, **options), train_dataset=graded_rows(6, 4))


def test_the_reference_is_asked_for_by_the_name_of_the_argument(tmp_path, tiny_folder):
    with pytest.raises(ImplicitPRMError, match="ref_model"):
        ImplicitPRMTrainer(str(tiny_folder), "checkpoint", arguments(tmp_path), train_dataset=graded_rows(6, 4))


def test_the_names_are_imported_lazily():
    code = (
        "import sys, implicit_prm; assert 'ImplicitPRMConfig' in dir(implicit_prm); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_adapter_on_the_output_head_is_refused(tmp_path, tiny_folder):
    lora = LoraConfig(r=4, target_modules=["q_proj", "lm_head"])
    with pytest.raises(ImplicitPRMError, match="target_modules"):
        ImplicitPRMTrainer(
            str(tiny_folder), args=arguments(tmp_path), train_dataset=graded_rows(6, 4), peft_config=lora
        ).train()
