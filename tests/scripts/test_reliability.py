"""scripts/reliability.py: it notices what differs or is left over, and (slow) a small campaign passes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from reliability import disturbed_table, kill_table
from reliabilitylib.campaign import Tally
from reliabilitylib.cases import cases, differing, leftovers, result


def _run(folder, loss=0.5, seconds=1.0, weights=b"w", **files):
    """What a training run leaves."""
    (folder / "out").mkdir(parents=True)
    (folder / "out" / "model.safetensors").write_bytes(weights)
    rows = [{"step": 1, "loss": loss}, {"step": 1, "train_runtime": seconds, "eval_samples_per_second": seconds}]
    (folder / "out" / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, content in files.items():
        (folder / "out" / name).write_text(content)
    return folder


def test_times_may_differ_and_nothing_else(tmp_path):
    whole = result(_run(tmp_path / "whole"))
    assert differing(_run(tmp_path / "slower", seconds=2.0), whole) == []
    assert differing(_run(tmp_path / "loss", loss=0.6), whole) == ["log.jsonl"]
    assert differing(_run(tmp_path / "weights", weights=b"v"), whole) == ["model.safetensors"]
    (tmp_path / "weights" / "out" / "log.jsonl").unlink()
    assert sorted(differing(tmp_path / "weights", whole)) == ["log.jsonl", "model.safetensors"]


def test_files_that_are_left_over_are_named(tmp_path):
    whole, ours = _run(tmp_path / "whole"), _run(tmp_path / "ours", unfinished="half")
    (ours / "cache").mkdir()
    (ours / "cache" / "shard").touch()
    assert leftovers(ours, whole) == ["out/unfinished"]


def test_tables_have_the_range_of_what_was_kept(tmp_path):
    case = cases(tmp_path)[0]
    rows = {case.name: (case, Tally(attempts=2, as_expected=2, resumed=2, equal=1, progress=[7, 3]))}
    assert kill_table(rows).splitlines()[-1].startswith("| `ipr-rollout` | 2 | 3 to 7 rows | 2 | 1 |")
    assert (
        disturbed_table(rows, "SIGTERM", "ended").splitlines()[-1] == "| `ipr-rollout` | 2 | 2 | 3 to 7 rows | 2 | 1 |"
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_a_small_campaign_passes(tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "reliability.py"
    few = ["--kills", "2", "--terminations", "1", "--pairs", "1", "--disks", "1", "--only", "ipr-rollout", "ipr-merge"]
    command = [sys.executable, str(script), *few, "--out", str(tmp_path / "out")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    assert "0 failures" in finished.stdout
