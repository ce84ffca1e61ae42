import json
import subprocess
import sys
from pathlib import Path

import pytest

from implicit_prm import evaluate
from implicit_prm.grading.extraction import find_answer

ROOT = Path(__file__).resolve().parents[2]


def make(path, *options):
    command = [sys.executable, str(ROOT / "scripts" / "make_candidates.py"), "--output", str(path), *map(str, options)]
    subprocess.run(command, check=True, env={"PYTHONPATH": str(ROOT)}, timeout=60)
    return path.read_text()


@pytest.fixture
def pool(tmp_path):
    path = tmp_path / "pool.jsonl"
    texts = [r"So \boxed{\sqrt{7}}.", r"Hence \boxed{8}.", "No idea."]
    path.write_text(json.dumps({"problem": "Root of 7?", "answer": r"\sqrt{7}", "responses": texts}))
    return path


@pytest.mark.parametrize("with_pool", [False, True])
def test_the_same_options_give_the_same_candidates(tmp_path, pool, with_pool):
    options = ["--problems", 6, "--responses", 8, *(["--pool", pool] if with_pool else [])]
    first = make(tmp_path / "a.jsonl", *options)
    assert make(tmp_path / "b.jsonl", *options) == first
    assert make(tmp_path / "b.jsonl", *options, "--seed", 1) != first
    rows = list(map(json.loads, first.splitlines()))
    assert len(rows) == len({row["problem"] for row in rows}) == 6
    assert {len(row["responses"]) for row in rows} == {8}


def test_each_round_of_a_pool_has_larger_numbers(tmp_path, pool):
    rows = make(tmp_path / "a.jsonl", "--pool", pool, "--problems", 3, "--responses", 40).splitlines()
    assert [json.loads(row)["answer"] for row in rows] == [r"\sqrt{7}", r"\sqrt{8}", r"\sqrt{9}"]
    found = {find_answer(text)[0] for text in json.loads(rows[2])["responses"]}
    assert {r"\sqrt{9}", "10"} < found


def test_the_file_can_be_evaluated(tmp_path):
    make(tmp_path / "a.jsonl", "--problems", 6, "--responses", 4)
    options = {"scores_kind": "probability", "vote_draws": 10, "bootstrap_resamples": 10}
    metrics = evaluate(str(tmp_path / "a.jsonl"), "scores", **options)
    assert metrics["responses"] == 24
    assert 0 < metrics["accuracy"]["random pick"]["1"]["value"] < 1
