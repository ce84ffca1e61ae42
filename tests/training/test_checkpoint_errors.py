"""A full disk, a damaged state and an interruption: what is kept is said, and the run can be resumed."""

import os
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from implicit_prm import ImplicitPRMError, fit
from implicit_prm.training import LogRatioTrainer
from tests.conftest import graded_rows, write_rows
from tests.runs import RESUMABLE, config, quiet

RESUMED = {**RESUMABLE, "resume_from_checkpoint": "true"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", graded_rows(12, 4))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_folder, rows):
    folder = tmp_path_factory.mktemp("whole") / "run"
    fit(config(folder, tiny_folder, rows, **RESUMABLE), quiet)
    return load_file(folder / "model.safetensors")


def assert_equal(folder, whole):
    assert all(torch.equal(weight, whole[name]) for name, weight in load_file(folder / "model.safetensors").items())


@pytest.mark.parametrize("limit_bytes", [20_000, 100_000])  # less than the weights take; less than the optimiser takes
def test_a_file_that_cannot_be_written_to_its_end(limit_bytes, tmp_path, tiny_folder, rows, whole):
    """A limit of the size of files stops writers in the middle, as a full disk does, also those outside Python."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        with pytest.raises(ImplicitPRMError, match=r"run: cannot save the model: .*No checkpoint is complete"):
            fit(config(tmp_path / "run", tiny_folder, rows, **RESUMABLE), quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    written = [path.name for path in (tmp_path / "run" / "checkpoint-2").iterdir()]
    assert ("optimizer.pt" in written) == (limit_bytes == 100_000)
    fit(config(tmp_path / "run", tiny_folder, rows, **RESUMED), quiet)
    assert_equal(tmp_path / "run", whole)


def test_an_interrupted_run_names_its_last_checkpoint(tmp_path, tiny_folder, rows, whole, monkeypatch):
    step, said = LogRatioTrainer.training_step, []

    def interrupted(self, *arguments, **options):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LogRatioTrainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(config(tmp_path / "run", tiny_folder, rows, **RESUMABLE), said.append)
    assert str(tmp_path / "run" / "checkpoint-2") in said[-1]
    fit(config(tmp_path / "run", tiny_folder, rows, **RESUMED), quiet)
    assert_equal(tmp_path / "run", whole)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_state_that_only_its_reader_finds_damaged_is_named(file, tmp_path, tiny_folder, rows):
    run = tmp_path / "run"
    fit(config(run, tiny_folder, rows, **{**RESUMABLE, "max_steps": 2}), quiet)
    torch.save({"of": "another kind"}, run / "checkpoint-2" / file)
    assert zipfile.is_zipfile(run / "checkpoint-2" / file)
    with pytest.raises(ImplicitPRMError, match=r"checkpoint-2: cannot load the states of .* is damaged"):
        fit(config(run, tiny_folder, rows, **RESUMED), quiet)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_weights_can_be_read_by_those_who_can_read_other_files(tmp_path, tiny_folder, rows):
    before = os.umask(0o027)
    try:
        fit(config(tmp_path / "run", tiny_folder, rows, **{**RESUMABLE, "max_steps": 2}), quiet)
    finally:
        os.umask(before)
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-2"):
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()} == {0o640}
