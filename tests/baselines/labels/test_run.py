"""ipr-label: labelled rows and their source, resuming, refusals."""

import json

import pytest

from implicit_prm.baselines.labels import exact, run
from implicit_prm.config import ExactConfig
from implicit_prm.data.groups import load_groups
from implicit_prm.types import ImplicitPRMError
from tests.baselines.runs import quiet
from tests.conftest import graded_rows, write_rows


@pytest.fixture
def config(tmp_path):
    rows = [row | {"mood": "blue"} for row in graded_rows(6, 3)]
    for row in rows:
        del row["step_labels"]
    return ExactConfig(input=str(write_rows(tmp_path / "rows.jsonl", rows)), output=str(tmp_path / "labels.jsonl"))


def _rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_keep_their_columns_and_gain_labels_and_source(config):
    rows = _rows(run.label(config, quiet))
    for row, original in zip(rows, graded_rows(6, 3), strict=True):
        assert row["step_labels"] == [[float(right) for right in some] for some in original["step_labels"]]
        assert row["step_label_source"] == "exact"
        assert row["mood"] == "blue"
        for name in ("id", "prompt", "answer", "completions", "correctness", "finished"):
            assert row[name] == original[name]
    groups = load_groups(config.output)
    assert [group.step_label_source for group in groups] == ["exact"] * 6
    assert "step_labels" not in groups[0].extra


def test_finished_file_is_kept_and_torn_file_resumes(config, tmp_path):
    whole = run.label(config, quiet).read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "labels.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:30])
    said = []
    assert run.label(config, said.append).read_bytes() == whole
    assert "2 prompts" in said[0]
    said.clear()
    assert run.label(config, said.append).read_bytes() == whole
    assert "all 6 prompts" in said[0]
    record = json.loads((tmp_path / "labels.jsonl.meta.json").read_text())
    assert len(record["runs"]) == 2
    assert record["settings"]["method"] == "exact"


def test_other_data_is_refused(config, tmp_path):
    run.label(config, quiet)
    config.max_prompts = 5
    with pytest.raises(ImplicitPRMError, match=r"data\.prompts=6.*=5"):
        run.label(config, quiet)
    config.max_prompts = None
    rows = _rows(tmp_path / "rows.jsonl")
    rows[0]["completions"][0] += " "
    write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ImplicitPRMError, match=r"data\.sha256"):
        run.label(config, quiet)


def test_summary_reports_agreement_with_true_labels(tmp_path, config, monkeypatch):
    """Counted up to the first wrong step: if all labels are 1, only those at the first wrong steps disagree."""
    rows = graded_rows(6, 3)
    config.input = str(write_rows(tmp_path / "rows.jsonl", rows))
    monkeypatch.setattr(exact, "check_steps", lambda _, text: [True] * (text.count("\n") + 1))
    said = []
    run.label(config, said.append)
    truth = [some for row in rows for some in row["step_labels"]]
    seen = sum(some.index(False) + 1 if False in some else len(some) for some in truth)
    share = 1 - sum(False in some for some in truth) / seen
    assert f"{share:.1%} agree" in said[-1]
    assert "mean 100.0%" in said[-1]


def test_several_processes_are_refused(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ImplicitPRMError, match="one process"):
        run.label(config, quiet)


def test_repeated_prompts_without_id_are_refused(config, tmp_path):
    row = {name: value for name, value in graded_rows(1, 2)[0].items() if name != "id"}
    config.input = str(write_rows(tmp_path / "twice.jsonl", [row, row]))
    with pytest.raises(ImplicitPRMError, match="id"):
        run.label(config, quiet)
