"""`ipr-score`: shards, one table, and an evaluation that reads it."""

import pyarrow.parquet as pq
import pytest

from implicit_prm.config import ScoreConfig, ScorerConfig
from implicit_prm.data.groups import load_groups
from implicit_prm.evaluation import scorer
from implicit_prm.evaluation.score_file import score_file
from implicit_prm.types import ImplicitPRMError
from tests.conftest import graded_rows, write_rows
from tests.runs import quiet

ROWS = graded_rows(9, 3)


@pytest.fixture
def options(tmp_path, tiny_folder):
    unlabelled = [{key: row[key] for key in ("id", "prompt", "answer", "completions")} for row in ROWS]
    path = write_rows(tmp_path / "rows.jsonl", unlabelled)
    checkpoint = {"checkpoint": str(tiny_folder), "reference": "none", "beta": 1.0, "steps": "newline"}
    return {"input": str(path), "output_dir": str(tmp_path / "scores"), "responses_per_part": 6, **checkpoint}


def _closed(monkeypatch):
    for model in (scorer.ImplicitPRM, scorer.RewardModel):
        monkeypatch.setattr(model, "from_source", lambda *_, **__: pytest.fail("a model was opened"))


def test_shards_merge_to_one_run_and_need_no_model_for_it(options, tmp_path, monkeypatch):
    whole = score_file(ScoreConfig(**options), quiet)
    options["output_dir"] = str(tmp_path / "sharded")
    assert score_file(ScoreConfig(**options, shard="1/2"), quiet) is None
    with pytest.raises(ImplicitPRMError, match="2 of 5 parts"):
        score_file(ScoreConfig(**options, merge=True), quiet)
    score_file(ScoreConfig(**options, shard="2/2"), quiet)
    _closed(monkeypatch)
    score_file(ScoreConfig(**options, shard="1/2"), quiet)
    merged = score_file(ScoreConfig(**options, merge=True), quiet)
    assert merged.read_bytes() == whole.read_bytes()
    with pytest.raises(ImplicitPRMError, match="5 of 5 parts"):
        score_file(ScoreConfig(**options | {"steps": "blank_line"}, merge=True), quiet)


def test_an_evaluation_reads_the_scores_and_adds_labels(options, tmp_path, monkeypatch):
    path = score_file(ScoreConfig(**options), quiet)
    assert pq.read_table(path)["correct"].null_count == 27
    monkeypatch.setattr(scorer.ImplicitPRM, "score", lambda *_, **__: pytest.fail("scored again"))
    config = ScorerConfig(**{key: options[key] for key in ("checkpoint", "reference", "beta")})
    graded = load_groups(ROWS)
    assert len(scorer.open_scorer(config, options["steps"], False).score_all(graded, tmp_path / "scores")) == 9
    assert pq.read_table(path)["correct"].to_pylist() == [label for row in ROWS for label in row["correctness"]]


def test_responses_that_are_too_long(options, tmp_path):
    options |= {"max_length": 15}
    with pytest.raises(ImplicitPRMError, match="15"):
        score_file(ScoreConfig(**options), quiet)
    path = score_file(ScoreConfig(**options, too_long="lowest"), quiet)
    assert pq.read_table(path)["step_rewards"].to_pylist() == [[]] * 27
    with pytest.raises(ImplicitPRMError, match=r"response 0 .* 15"):  # not what the last run has left out
        score_file(ScoreConfig(**options), quiet)
    with pytest.raises(ImplicitPRMError, match=r"5 of 5 parts .* too_long=lowest"):
        score_file(ScoreConfig(**options, merge=True), quiet)
