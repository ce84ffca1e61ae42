"""The model card: it states what was run, and its code runs."""

import json
import re

import pytest
from huggingface_hub import ModelCard

from implicit_prm import ImplicitPRMError, fit
from implicit_prm.models.checkpoint import CheckpointMetadata
from implicit_prm.training import model_card
from tests.runs import config, quiet


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_card_of_a_run(kind, tmp_path, tiny_folder, rollouts_file, capsys):
    model = {"lora": {"r": 2}} if kind == "lora" else {}
    run = config(
        *(tmp_path / "run", tiny_folder, rollouts_file, "dpo"),
        **{"data": {"hold_out_prompts": 3}, "model_options": model, "save_strategy": "epoch"},
    )
    command = "ipr-train loss=dpo 'model.lora={r:2}'"
    metrics = fit(run, quiet, command=command)
    found = ModelCard.load(tmp_path / "run" / "README.md")
    assert found.data.tags == ["implicit-prm", "process-reward-model", "reward-model"]
    assert found.data.library_name == ("peft" if kind == "lora" else "transformers")
    assert found.data.base_model is None  # the hub cannot link to a local folder
    assert found.data.license is None
    text = found.text
    settings = CheckpointMetadata.read(tmp_path / "run")
    for fact in (
        *(command, "| beta | 0.5 |", "| loss | `dpo`, pairing all |", settings.data_fingerprint, str(tiny_folder)),
        *(
            f"train: `{rollouts_file}`",
            "train: prompts 9",
            "train: responses 36",
            "dev: 3 prompts held out of the same",
        ),
        *("dev: 3 prompts held out of the same", "dev: prompts 3", "dev: responses 12", "rewards/margins (last log)"),
        *(f"| rewards/accuracies | {metrics['eval_rewards/accuracies']:.4g} |", "learning_rate: 0.001"),
        *(f"| train_loss | {metrics['train_loss']:.4g} |", "@article{yuan2024implicitprm", "@software{implicit_prm"),
        *(f"{package} {number}" for package, number in settings.versions.items()),
    ):
        assert fact in text, fact
    assert "More Information Needed" not in text
    assert [file.parent.name for file in (tmp_path / "run").rglob("README.md")] == ["run"]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {})
    assert re.fullmatch(r"(\d \[[^]]+\]\n){2}", capsys.readouterr().out[-200:].split("}\n")[-1])


def test_front_matter_links_models_on_the_hub(tmp_path):
    run = model_card.Run(None, {}, {"train": ["1 prompts"]})
    base = {"loss": {"name": "ce"}, "start": "org/base"}
    for settings, library, relation in (
        (CheckpointMetadata(0.05, "org/base", **base), "transformers", "finetune"),
        (CheckpointMetadata(0.05, "adapter_off", base="org/base", lora={"r": 2}, **base), "peft", "adapter"),
    ):
        data = ModelCard(model_card.render(settings, run, "org/prm")).data
        assert (data.base_model, data.library_name) == ("org/base", library)
        assert data.base_model_relation == relation
    assert 'from_pretrained("org/prm")' in model_card.render(settings, run, "org/prm")


def test_license_is_that_of_the_starting_model(tmp_path, tiny_folder):
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: llama3.1\n---\n# Model\n")
    data = ModelCard(
        model_card.render(CheckpointMetadata(1.0, "none", start=str(tmp_path)), model_card.Run(None, {}, {}), "x")
    ).data
    assert (data.license, data.license_name) == ("other", "llama3.1")
    (tmp_path / "README.md").write_text("---\nlicense: [unclosed\n---\n# Model\n")
    assert (
        "license"
        not in model_card.render(
            CheckpointMetadata(1.0, "none", start=str(tmp_path)), model_card.Run(None, {}, {}), "x"
        )[:100]
    )


@pytest.mark.parametrize("steps", ["blank_line", "newline", "step_marker", "given"])
def test_example_has_two_steps_per_response(steps, tiny_folder):
    settings = CheckpointMetadata(1.0, "none")
    settings.text.steps = steps
    code = model_card.example(settings, str(tiny_folder))
    code = code.replace('")\n', f'", reference="none", beta=1.0, steps="{steps}")\n', 1)
    seen = {}
    exec(code.replace("print(score.index, score.step_rewards)", "seen[score.index] = score.step_rewards"), locals())
    assert {index: len(rewards) for index, rewards in seen.items()} == {0: 2, 1: 2}


def test_a_run_file_that_is_nested_too_deeply_is_named(tmp_path):
    (tmp_path / "run.json").write_text("[" * 100_000)
    with pytest.raises(ImplicitPRMError, match=r"run\.json"):
        model_card.Run.read(tmp_path)


def test_damaged_run_file_is_named(tmp_path):
    assert model_card.Run.read(tmp_path) is None
    for text in ("{", json.dumps({"colour": "blue"})):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ImplicitPRMError, match=r"run\.json"):
            model_card.Run.read(tmp_path)


def test_training_and_dev_set_have_their_own_revisions():
    data = {"train": "org/train", "revision": "abc", "dev": "org/dev", "dev_revision": "def"}
    run = model_card.Run(None, {"data": data}, {"train": ["1 prompts"], "dev": ["2 prompts"]})
    card = model_card.render(CheckpointMetadata(1.0, "none"), run, "x")
    assert "train: `org/train` at `abc`" in card
    assert "dev: `org/dev` at `def`" in card
