"""Checkpoint metadata: written and read unchanged, movable with its run, and a guard for resumed runs."""

import json

import pytest

from implicit_prm.config import TextConfig
from implicit_prm.models.checkpoint import BaselineMetadata, CheckpointMetadata, read_metadata
from implicit_prm.types import ImplicitPRMError

# As version 0.1 wrote it: the length with the text, and a loss without a batch unit.
VERSION_0_1 = {
    "beta": 0.05,
    "reference": "org/model",
    "text": {"steps": "newline", "prompt_template": "{problem}", "system_prompt": None, "max_length": 512},
    "loss": {"name": "ce", "balance": "none", "offset": "none"},
}


@pytest.mark.parametrize(
    "metadata",
    [
        CheckpointMetadata(0.5, "none", lora={"r": 4}, text=TextConfig(steps="given"), max_length=64),
        BaselineMetadata("orm", "outcome", start="org/model", versions={"torch": "2"}),
    ],
)
def test_read_returns_what_was_written(metadata, tmp_path):
    metadata.write(tmp_path)
    assert read_metadata(tmp_path) == metadata


def test_other_folders_have_no_metadata(tmp_path):
    assert read_metadata(tmp_path) is None


def test_a_checkpoint_of_version_0_1(tmp_path):
    (tmp_path / "implicit_prm.json").write_text(json.dumps(VERSION_0_1))
    metadata = CheckpointMetadata.read(tmp_path)
    assert (metadata.beta, metadata.reference, metadata.max_length) == (0.05, "org/model", 512)
    assert metadata.text == TextConfig(steps="newline")
    same = CheckpointMetadata(0.05, "org/model", text=TextConfig(steps="newline"), max_length=512)
    same.loss = {"name": "ce", "balance": "none", "offset": "none", "batch_unit": "prompt"}
    same.check_same_run(tmp_path, tmp_path)
    same.loss["batch_unit"] = "response"
    with pytest.raises(ImplicitPRMError, match="loss="):
        same.check_same_run(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (CheckpointMetadata, None, "not a checkpoint"),
        (CheckpointMetadata, b'{"beta": ', "damaged"),
        (CheckpointMetadata, b"[1]", "damaged"),
        (CheckpointMetadata, b"\xff\xfe{", "damaged"),
        (CheckpointMetadata, b'{"beta": 1.0}', "reference"),
        (CheckpointMetadata, b"[" * 100_000, "damaged"),
        (CheckpointMetadata, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "damaged"),
        *(
            (CheckpointMetadata, b'{"reference": "none", "beta": %s}' % beta, "beta")
            for beta in (b"0", b"-1", b"NaN", b"Infinity", b"1e308", b"1" + b"0" * 400)
        ),
        (CheckpointMetadata, b'{"reference": "none", "beta": 1, "max_length": -1}', "max_length"),
        (BaselineMetadata, None, "not a checkpoint"),
        (BaselineMetadata, b"{", "damaged"),
        (BaselineMetadata, b'{"kind": "prm", "labels": "hard"}', "kind=prm"),
    ],
)
def test_damaged_metadata_is_refused(kind, content, message, tmp_path):
    if content is not None:
        (tmp_path / kind.file).write_bytes(content)
    with pytest.raises(ImplicitPRMError, match=f"{kind.file}.*{message}"):
        kind.read(tmp_path)


@pytest.mark.parametrize("change", [{"kind": "value_head"}, {"labels": "soft"}, {"data_fingerprint": "other"}])
def test_a_baseline_resumes_only_with_the_same_options_and_data(change, tmp_path):
    values = {"kind": "orm", "labels": "outcome", "data_fingerprint": "abc"}
    BaselineMetadata(**values, versions={"torch": "1"}).write(tmp_path / "checkpoint-2")
    BaselineMetadata(**values, versions={"torch": "2"}).check_same_run(tmp_path / "checkpoint-2", tmp_path)
    with pytest.raises(ImplicitPRMError, match=f"{next(iter(change))}="):
        BaselineMetadata(**{**values, **change}).check_same_run(tmp_path / "checkpoint-2", tmp_path)
