"""A checkpoint that cannot be resumed from is recognized, file by file."""

import json
import os
import zipfile

import pytest
import torch

from implicit_prm import ImplicitPRMError
from implicit_prm.models.checkpoint import CheckpointMetadata
from implicit_prm.training.resume import find_problem
from tests.conftest import tiny_model


@pytest.fixture
def checkpoint(tmp_path, tokenizer):
    """As the trainer writes it, with little in it."""
    folder = tmp_path / "run" / "checkpoint-2"
    tiny_model(tokenizer).save_pretrained(folder)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.save({"values": torch.arange(100)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 2}))
    CheckpointMetadata(0.5, "none", loss={"name": "ce"}, data_fingerprint="abc").write(folder)
    assert find_problem(folder) is None
    return folder


def empty(path):
    os.truncate(path, 0)


def half(path):
    os.truncate(path, path.stat().st_size // 2)


def without_pickle(path):
    """A whole zip file without what torch looks for."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02garbage")


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        ("trainer_state.json", os.unlink, "trainer_state.json"),
        ("trainer_state.json", half, "trainer_state.json"),
        ("trainer_state.json", lambda path: path.write_text("[1]"), "trainer_state.json"),
        ("trainer_state.json", lambda path: path.write_text('{"steps": 2}'), "trainer_state.json"),
        ("implicit_prm.json", half, "the checkpoint is damaged"),
        ("implicit_prm.json", os.unlink, "not a checkpoint of ipr-train"),
        ("implicit_prm.json", lambda path: path.write_text("[1]"), "expected a JSON object"),
        ("implicit_prm.json", lambda path: path.write_bytes(b"\xff\xfe{"), "the checkpoint is damaged"),
        ("optimizer.pt", empty, "optimizer.pt"),
        ("optimizer.pt", half, "optimizer.pt"),
        ("optimizer.pt", os.unlink, "save_only_model"),
        ("scheduler.pt", os.unlink, "scheduler.pt"),
        ("optimizer.pt", lambda path: torch.save([1, 2], path), "optimizer.pt is damaged"),
        ("scheduler.pt", without_pickle, "scheduler.pt is damaged"),
        ("rng_state.pth", half, "rng_state.pth"),
        ("model.safetensors", half, "model.safetensors is truncated"),
        ("model.safetensors", empty, "model.safetensors is empty"),
        ("model.safetensors", os.unlink, "it has no weights"),
    ],
)
def test_missing_and_damaged_files_are_named(file, change, problem, checkpoint):
    change(checkpoint / file)
    assert problem in find_problem(checkpoint)


@pytest.mark.parametrize(
    ("name", "value"),
    [("loss", {"name": "dpo"}), ("data_fingerprint", "xyz"), ("quantization", "4bit"), ("max_length", 64)],
)
def test_another_run_is_not_resumed(name, value, checkpoint):
    same = CheckpointMetadata.read(checkpoint)
    same.check_same_run(checkpoint, checkpoint.parent)
    setattr(same, name, value)
    with pytest.raises(ImplicitPRMError, match=f"was trained with {name}="):
        same.check_same_run(checkpoint, checkpoint.parent)


def test_models_inside_the_run_are_named_from_the_checkpoint(tmp_path):
    settings = CheckpointMetadata(1.0, str(tmp_path / "run" / "start"), base=str(tmp_path / "elsewhere"))
    for folder, written in (("run", "./start"), ("run/checkpoint-2", "../start")):
        settings.write(tmp_path / folder)
        assert json.loads((tmp_path / folder / "implicit_prm.json").read_text())["reference"] == written
        assert CheckpointMetadata.read(tmp_path / folder) == settings
