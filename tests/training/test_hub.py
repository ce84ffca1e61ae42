"""Pushing to the hub, with a hub that is not there: what goes up, and what a failure leaves behind."""

import fnmatch

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled

from implicit_prm import ImplicitPRMError, fit
from implicit_prm.training import hub as publishing
from tests.runs import config, quiet, scores


@pytest.fixture
def hub(monkeypatch):
    """What a faked hub was asked for."""
    asked = {}
    monkeypatch.setattr(publishing, "get_token", lambda: "hf_token")
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: asked.update(made=(repo_id, options)))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **options: asked.update(options))
    return asked


def test_the_finished_model_goes_up_when_asked_without_optimizer_states(hub, tmp_path, tiny_folder, rollouts_file):
    run = config(tmp_path / "run", tiny_folder, rollouts_file, max_steps=1, save_strategy="steps", save_steps=1)
    fit(run, quiet)
    assert hub == {}  # nothing is pushed by itself
    run.push_to_hub, run.overwrite = "org/prm", True
    said = []
    fit(run, said.append)
    assert hub["made"] == ("org/prm", {"private": True, "exist_ok": True})
    assert "pushed: org/prm" in said
    files = [str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()]
    sent = {file for file in files if not any(fnmatch.fnmatch(file, one) for one in hub["ignore_patterns"])}
    assert {"model.safetensors", "config.json", "tokenizer.json", "implicit_prm.json", "README.md"} <= sent
    assert "checkpoint-1/optimizer.pt" in files
    assert not [file for file in sent if "checkpoint" in file or file.endswith((".pt", ".bin", ".pth"))]
    assert 'from_pretrained("org/prm")' in (tmp_path / "run" / "README.md").read_text()


def test_a_failed_push_leaves_the_checkpoint_and_the_command(hub, monkeypatch, tmp_path, tiny_folder, rollouts_file):
    def offline(self, *_, **__):
        raise OfflineModeIsEnabled("Cannot reach https://huggingface.co: offline mode is enabled.")

    monkeypatch.setattr(HfApi, "create_repo", offline)
    run = config(tmp_path / "run", tiny_folder, rollouts_file, max_steps=1)
    run.push_to_hub, run.hub_private = "org/prm", False
    with pytest.raises(ImplicitPRMError, match="offline mode is enabled") as failed:
        fit(run)
    assert f"hf upload org/prm {tmp_path}/run . --exclude 'checkpoint-*'" in str(failed.value)
    assert "--private" not in str(failed.value)
    assert scores(tmp_path / "run")[0]
    assert (tmp_path / "run" / "train_metrics.json").exists()


def test_a_push_that_cannot_work_is_refused_before_training(monkeypatch, tmp_path, tiny_folder, rollouts_file):
    monkeypatch.setattr(publishing, "get_token", lambda: None)
    run = config(tmp_path / "run", tiny_folder, rollouts_file)
    run.push_to_hub = "org/prm"
    with pytest.raises(ImplicitPRMError, match="not logged in; run `hf auth login`"):
        fit(run)
    run.push_to_hub = "https://huggingface.co/org/prm"
    with pytest.raises(ImplicitPRMError, match="as ORG/NAME"):
        fit(run)
    assert not (tmp_path / "run").exists()
