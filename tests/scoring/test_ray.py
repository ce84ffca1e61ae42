"""`BatchScorer` in a local Ray: the scores are those of `ipr-score`."""

import pyarrow.parquet as pq
import pytest

from implicit_prm.config import ScoreConfig
from implicit_prm.evaluation.score_file import score_file
from implicit_prm.scoring import BatchScorer
from tests.conftest import graded_rows, write_rows
from tests.runs import quiet


@pytest.mark.slow
def test_ray_data_gives_the_scores_of_the_command(tiny_folder, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    rows = str(write_rows(tmp_path / "rows.jsonl", graded_rows(40, 3)))
    checkpoint = {"reference": "none", "beta": 1.0, "steps": "newline"}
    options = {"input": rows, "output_dir": str(tmp_path / "scores"), "checkpoint": str(tiny_folder)}
    table = pq.read_table(score_file(ScoreConfig(**options, **checkpoint), quiet)).to_pylist()
    ray.init(num_cpus=3, include_dashboard=False)  # two actors, and a task that reads
    try:
        scored = ray.data.read_json(rows).map_batches(
            BatchScorer,
            fn_constructor_args=[str(tiny_folder)],
            fn_constructor_kwargs=checkpoint,
            batch_size=7,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=2),
        )
        found = {row["id"]: row["step_rewards"] for row in scored.iter_rows()}
    finally:
        ray.shutdown()
    assert len(found) == 40
    for row in table:
        assert list(found[row["problem_id"]][row["response"]]) == row["step_rewards"]
