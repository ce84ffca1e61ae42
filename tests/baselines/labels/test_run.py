"""ipr-label: rows with labels that say who made them, going on after an interruption, refusals."""

import json

import pytest

from implicit_prm.baselines.labels import run
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


def test_rows_come_back_with_the_checkers_labels_and_their_source(config):
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


def test_a_finished_file_is_left_and_a_torn_one_goes_on(config, tmp_path):
    whole = run.label(config, quiet).read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "labels.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:30])
    said = []
    assert run.label(config, said.append).read_bytes() == whole
    assert "going on behind 2 prompts" in said[0]
    said.clear()
    assert run.label(config, said.append).read_bytes() == whole
    assert "all 6 prompts are there already" in said[0]
    record = json.loads((tmp_path / "labels.jsonl.meta.json").read_text())
    assert len(record["runs"]) == 2
    assert record["settings"]["method"] == "exact"


def test_other_data_is_refused(config, tmp_path):
    run.label(config, quiet)
    config.max_prompts = 5
    with pytest.raises(ImplicitPRMError, match=r"was made with data\.prompts=6, now it is 5"):
        run.label(config, quiet)
    config.max_prompts = None
    rows = _rows(tmp_path / "rows.jsonl")
    rows[0]["completions"][0] += " "
    write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ImplicitPRMError, match=r"was made with data\.sha256"):
        run.label(config, quiet)


def test_the_end_says_how_good_the_labels_are_where_the_truth_is_there(tmp_path, config, monkeypatch):
    """Up to the first wrong step. Of labels that are all 1, only those at the first wrong steps are off."""
    rows = graded_rows(6, 3)
    config.input = str(write_rows(tmp_path / "rows.jsonl", rows))
    monkeypatch.setattr(run, "check_steps", lambda _, text: [True] * (text.count("\n") + 1))
    said = []
    run.label(config, said.append)
    truth = [some for row in rows for some in row["step_labels"]]
    seen = sum(some.index(False) + 1 if False in some else len(some) for some in truth)
    share = 1 - sum(False in some for some in truth) / seen
    assert f"{share:.1%} of those up to the first wrong step agree with the true ones" in said[-1]
    assert "100.0% good" in said[-1]


def test_the_checker_knows_the_sandbox_alone(config, tmp_path):
    rows = graded_rows(1, 2)
    for prompt, words in (("What is 1 + 1?", "not a sandbox problem"), ([{"role": "user", "content": "x"}], "chats")):
        config.input = str(write_rows(tmp_path / "other.jsonl", [rows[0] | {"prompt": prompt}]))
        with pytest.raises(ImplicitPRMError, match=words):
            run.label(config, quiet)


def test_several_processes_are_refused(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ImplicitPRMError, match="works in one process"):
        run.label(config, quiet)


def test_prompts_that_repeat_without_an_id_are_refused(config, tmp_path):
    row = {name: value for name, value in graded_rows(1, 2)[0].items() if name != "id"}
    config.input = str(write_rows(tmp_path / "twice.jsonl", [row, row]))
    with pytest.raises(ImplicitPRMError, match="give each row an id"):
        run.label(config, quiet)
