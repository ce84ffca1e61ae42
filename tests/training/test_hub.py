"""Pushing to a mocked hub: the uploaded files, and failures."""

import fnmatch

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled

from implicit_prm import ImplicitPRMError, fit
from implicit_prm.training import hub as publishing
from tests.runs import config, quiet, scores


@pytest.fixture
def hub(monkeypatch):
    """The arguments of the calls to a mocked hub."""
    calls = {}
    monkeypatch.setattr(publishing, "get_token", lambda: "hf_token")
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: calls.update(created=(repo_id, options)))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **options: calls.update(options))
    return calls


def test_finished_model_is_pushed_without_optimizer_states(hub, tmp_path, tiny_folder, rollouts_file):
    run = config(tmp_path / "run", tiny_folder, rollouts_file, max_steps=1, save_strategy="steps", save_steps=1)
    fit(run, quiet)
    assert hub == {}  # the default is not to push
    run.push_to_hub, run.overwrite = "org/prm", True
    lines = []
    fit(run, lines.append)
    assert hub["created"] == ("org/prm", {"private": True, "exist_ok": True})
    assert "pushed: org/prm" in lines
    files = [str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()]
    uploaded = {file for file in files if not any(fnmatch.fnmatch(file, one) for one in hub["ignore_patterns"])}
    assert {"model.safetensors", "config.json", "tokenizer.json", "implicit_prm.json", "README.md"} <= uploaded
    assert "checkpoint-1/optimizer.pt" in files
    assert not [file for file in uploaded if "checkpoint" in file or file.endswith((".pt", ".bin", ".pth"))]
    assert 'from_pretrained("org/prm")' in (tmp_path / "run" / "README.md").read_text()


def test_failed_push_keeps_the_checkpoint_and_shows_the_command(hub, monkeypatch, tmp_path, tiny_folder, rollouts_file):
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


def test_invalid_push_is_refused_before_training(monkeypatch, tmp_path, tiny_folder, rollouts_file):
    monkeypatch.setattr(publishing, "get_token", lambda: None)
    run = config(tmp_path / "run", tiny_folder, rollouts_file)
    run.push_to_hub = "org/prm"
    with pytest.raises(ImplicitPRMError, match=r"push_to_hub=org/prm: .*hf auth login"):
        fit(run)
    run.push_to_hub = "https://huggingface.co/org/prm"
    with pytest.raises(ImplicitPRMError, match="ORG/NAME"):
        fit(run)
    assert not (tmp_path / "run").exists()
