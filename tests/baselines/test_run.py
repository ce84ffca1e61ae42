"""A run from options to checkpoint: what is refused, what is recorded, resuming, and continuing from a verifier."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from implicit_prm import ImplicitPRMError
from implicit_prm import fit as fit_implicit
from implicit_prm.baselines import RewardModel
from implicit_prm.baselines.run import fit
from implicit_prm.config import TextConfig
from implicit_prm.data.tokenization import build_prompt
from implicit_prm.models.checkpoint import BaselineMetadata
from tests.baselines.runs import KINDS, PROBLEM, RESPONSES, baseline, labelled_file, quiet
from tests.conftest import graded_rows, write_rows
from tests.runs import RESUMABLE, adapter, config, log


def test_step_labels_without_a_source_are_refused(tmp_path, tiny_folder, rollouts_file):
    """What ipr-rollout writes for the sandbox holds the truth about every step."""
    assert "step_labels" in rollouts_file.read_text()
    for kind in ("value_head", "next_token"):
        with pytest.raises(ImplicitPRMError, match=r"step_label_source.*method=exact"):
            fit(baseline(tmp_path / kind, tiny_folder, rollouts_file, kind), quiet)
    fit(baseline(tmp_path / "orm", tiny_folder, rollouts_file, "orm"), quiet)
    settings = BaselineMetadata.read(tmp_path / "orm")
    assert (settings.labels, settings.label_source) == ("outcome", None)


def test_step_labels_are_required_unless_outcomes_are_trained_on(tmp_path, tiny_folder):
    rows = [{name: value for name, value in row.items() if name != "step_labels"} for row in graded_rows(4, 3)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    fit(baseline(tmp_path / "verifier", tiny_folder, file, "value_head", labels="outcome"), quiet)
    with pytest.raises(ImplicitPRMError, match="step_labels"):
        fit(baseline(tmp_path / "run", tiny_folder, file, "value_head"), quiet)


def test_step_labels_of_several_sources_are_refused(tmp_path, tiny_folder):
    one = labelled_file(tmp_path / "one.jsonl", 4, 3)
    rows = [json.loads(line) for line in one.read_text().splitlines()]
    rows[1]["step_label_source"] = "math_shepherd"
    with pytest.raises(ImplicitPRMError, match=r"exact \(.*\), math_shepherd"):
        fit(baseline(tmp_path / "run", tiny_folder, write_rows(tmp_path / "two.jsonl", rows), "value_head"), quiet)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_recorded(kind, tmp_path, tiny_folder):
    rollouts = labelled_file(tmp_path / "rows.jsonl")
    said = []
    fit(baseline(tmp_path / "run", tiny_folder, rollouts, kind), said.append, command="ipr-baseline")
    settings = BaselineMetadata.read(tmp_path / "run")
    assert (settings.kind, settings.start, settings.text.steps) == (kind, str(tiny_folder), "newline")
    assert (settings.tokens is None) == (kind != "next_token")
    assert settings.label_source == (None if kind == "orm" else "exact")
    assert settings.template_hash == RewardModel.from_pretrained(tmp_path / "run").encoder.template_hash
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())["train"]
    assert report["used"] == {"prompts": 12, "responses": 48, "pairs": report["pairs"]}
    model = RewardModel.from_pretrained(tmp_path / "run")
    rows = graded_rows(12, 4)
    lengths = [n for row in rows for n in model.lengths(row["prompt"], row["completions"], [True] * 4)]
    tokens = report["used_tokens"]
    assert tokens["prompts"] == sum(len(model.encoder.prompt_ids(row["prompt"])) for row in rows)
    assert tokens["responses"] == sum(lengths) - 4 * tokens["prompts"]
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["command"], run["config"]["kind"]) == ("ipr-baseline", kind)
    assert any(line.startswith(f"{kind}: ") for line in said)
    assert not (tmp_path / "run" / "implicit_prm.json").exists()
    assert [row["step"] for row in log(tmp_path / "run") if "loss" in row] == [1, 2, 3]


def test_a_bare_problem_becomes_the_chat_of_training(tmp_path, tiny_folder):
    text = TextConfig(prompt_template="{problem}\n\nBe brief.")
    rows = graded_rows(4, 2)
    chats = [{**row, "prompt": build_prompt(row["prompt"], text)} for row in rows]
    fit(baseline(tmp_path / "run", tiny_folder, write_rows(tmp_path / "rows.jsonl", chats), "orm"), quiet)
    model = RewardModel.from_pretrained(tmp_path / "run")
    assert model.metadata.text.prompt_template == text.prompt_template
    assert model.encoder.prompt_ids(rows[0]["prompt"]) == model.encoder.prompt_ids(chats[0]["prompt"])


def test_the_fingerprint_knows_step_labels(tmp_path, tiny_folder):
    fingerprints = set()
    for name, label in (("right", 1.0), ("wrong", 0.0)):
        rows = [row | {"step_label_source": "mine"} for row in graded_rows(4, 4)]
        rows = [row | {"step_labels": [[label] * len(some) for some in row["step_labels"]]} for row in rows]
        fit(baseline(tmp_path / name, tiny_folder, write_rows(tmp_path / f"{name}.jsonl", rows), "value_head"), quiet)
        fingerprints.add(BaselineMetadata.read(tmp_path / name).data_fingerprint)
    assert len(fingerprints) == 2


def test_resumed_equals_uninterrupted_and_another_run_is_refused(tmp_path, tiny_folder):
    rollouts = labelled_file(tmp_path / "rows.jsonl")
    fit(baseline(tmp_path / "whole", tiny_folder, rollouts, "next_token", trainer=RESUMABLE), quiet)
    fit(baseline(tmp_path / "cut", tiny_folder, rollouts, "next_token", trainer=RESUMABLE), quiet)
    for step in (4, 6):  # as if the run had died behind its first checkpoint
        shutil.rmtree(tmp_path / "cut" / f"checkpoint-{step}")
    said = []
    again = RESUMABLE | {"resume_from_checkpoint": "true"}
    fit(baseline(tmp_path / "cut", tiny_folder, rollouts, "next_token", trainer=again), said.append)
    assert any("resuming from" in line and "checkpoint-2" in line for line in said)
    for name, weight in load_file(tmp_path / "whole" / "model.safetensors").items():
        torch.testing.assert_close(
            load_file(tmp_path / "cut" / "model.safetensors")[name], weight, atol=1e-6, rtol=1e-4
        )
    assert [row["loss"] for row in log(tmp_path / "cut") if "loss" in row] == pytest.approx(
        [row["loss"] for row in log(tmp_path / "whole") if "loss" in row], rel=1e-5
    )
    with pytest.raises(ImplicitPRMError, match=r"labels=hard.*labels=soft"):
        fit(baseline(tmp_path / "cut", tiny_folder, rollouts, "next_token", labels="soft", trainer=again), quiet)


def test_a_finished_folder_of_either_kind_is_not_overwritten(tmp_path, tiny_folder, rollouts_file):
    fit(baseline(tmp_path / "run", tiny_folder, rollouts_file, "orm"), quiet)
    with pytest.raises(ImplicitPRMError, match="already holds a model"):
        fit_implicit(config(tmp_path / "run", tiny_folder, rollouts_file), quiet)
    fit_implicit(config(tmp_path / "implicit", tiny_folder, rollouts_file), quiet)
    with pytest.raises(ImplicitPRMError, match="already holds a model"):
        fit(baseline(tmp_path / "implicit", tiny_folder, rollouts_file, "orm"), quiet)
    fit(baseline(tmp_path / "implicit", tiny_folder, rollouts_file, "orm", overwrite=True), quiet)
    assert not (tmp_path / "implicit" / "implicit_prm.json").exists()


def test_training_continues_from_the_head_of_a_verifier(tmp_path, tiny_folder):
    """AutoPSV's last stage: training from a value head's checkpoint starts with its scores."""
    rollouts = labelled_file(tmp_path / "rows.jsonl")
    trainer = {"max_steps": 10, "learning_rate": 1e-2}
    fit(baseline(tmp_path / "verifier", tiny_folder, rollouts, "value_head", labels="outcome", trainer=trainer), quiet)
    still = {"max_steps": 1, "learning_rate": 0.0}
    fit(baseline(tmp_path / "on", tmp_path / "verifier", rollouts, "value_head", trainer=still), quiet)
    scores = [RewardModel.from_pretrained(tmp_path / name).score(PROBLEM, RESPONSES) for name in ("verifier", "on")]
    assert scores[0] == scores[1]


LORA = {"lora": {"r": 4, "alpha": 8}}


@pytest.mark.parametrize(("kind", "dtype"), [("orm", "float32"), ("value_head", "bfloat16"), ("next_token", "float32")])
def test_an_adapter_is_merged_into_a_plain_model(kind, dtype, tmp_path, tiny_folder):
    rollouts = labelled_file(tmp_path / "rows.jsonl")
    tokens = {"separator": "\n", "good": "1", "bad": "0"} if kind == "next_token" else None
    options = LORA | {"dtype": dtype}
    trainer = {"learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 3}
    run = tmp_path / "run"
    fit(baseline(run, tiny_folder, rollouts, kind, model_options=options, tokens=tokens, trainer=trainer), quiet)
    assert not (run / "adapter_config.json").exists()
    assert (run / "checkpoint-3" / "adapter_config.json").exists()
    assert BaselineMetadata.read(run).lora["r"] == 4
    weights, start = load_file(run / "model.safetensors"), load_file(tiny_folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    start = {name: weight.to(getattr(torch, dtype)).float() for name, weight in start.items()}
    changed = {name for name in weights.keys() & start if not torch.equal(weights[name], start[name])}
    assert changed
    assert all("proj" in name for name in changed)
    scores = RewardModel.from_pretrained(run).score(PROBLEM, RESPONSES)
    assert len({value for score in scores for value in score.step_rewards}) > 1


def test_an_adapter_resumes(tmp_path, tiny_folder):
    rollouts = labelled_file(tmp_path / "rows.jsonl")

    def train(name, **changes):
        options = {"model_options": LORA, "trainer": RESUMABLE, **changes}
        fit(baseline(tmp_path / name, tiny_folder, rollouts, "value_head", **options), quiet)

    train("whole")
    train("cut")
    for step in (4, 6):
        shutil.rmtree(tmp_path / "cut" / f"checkpoint-{step}")
    again = RESUMABLE | {"resume_from_checkpoint": "true"}
    train("cut", trainer=again)
    resumed = load_file(tmp_path / "cut" / "model.safetensors")
    for name, weight in load_file(tmp_path / "whole" / "model.safetensors").items():
        torch.testing.assert_close(resumed[name], weight, atol=1e-6, rtol=1e-4)
    with pytest.raises(ImplicitPRMError, match="lora="):
        train("cut", trainer=again, model_options={"lora": {"r": 2}})


def test_a_value_head_on_an_adapter_is_refused(tmp_path, tiny_folder, rollouts_file):
    folder = adapter(tmp_path / "adapter", tiny_folder)
    with pytest.raises(ImplicitPRMError, match="adapter is a LoRA adapter"):
        fit(baseline(tmp_path / "run", folder, rollouts_file, "orm"), quiet)


def test_a_response_over_the_limit_is_dropped_with_its_labels(tmp_path, tiny_folder):
    """Separators count: what fits without them may not fit with them."""
    rows = graded_rows(4, 3)
    rollouts = labelled_file(tmp_path / "rows.jsonl", 4, 3)
    fit(baseline(tmp_path / "all", tiny_folder, rollouts, "next_token"), quiet)
    longest = RewardModel.from_pretrained(tmp_path / "all")
    lengths = [n for row in rows for n in longest.lengths(row["prompt"], row["completions"], [True] * 3)]
    limit = {"max_length": max(lengths) - 1}
    with pytest.raises(ImplicitPRMError, match=f"longer than {max(lengths) - 1} tokens"):
        fit(baseline(tmp_path / "run", tiny_folder, rollouts, "next_token", data=limit), quiet)
    data = limit | {"too_long": "drop"}
    fit(baseline(tmp_path / "run", tiny_folder, rollouts, "next_token", data=data), quiet)
    used = json.loads((tmp_path / "run" / "data_report.json").read_text())["train"]["used"]
    assert used["responses"] == sum(length < max(lengths) for length in lengths)
    fit(baseline(tmp_path / "value", tiny_folder, rollouts, "value_head", data=limit), quiet)


def test_step_labels_that_are_all_null_are_refused(tmp_path, tiny_folder):
    rows = [row | {"step_label_source": "exact"} for row in graded_rows(2, 2)]
    rows = [row | {"step_labels": [[None] * len(some) for some in row["step_labels"]]} for row in rows]
    with pytest.raises(ImplicitPRMError, match="step_labels"):
        fit(baseline(tmp_path / "run", tiny_folder, write_rows(tmp_path / "r.jsonl", rows), "value_head"), quiet)
