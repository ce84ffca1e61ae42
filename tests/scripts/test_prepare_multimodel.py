"""scripts/prepare_multimodel.py on a pool of a few problems."""

import json
import sys

import prepare_multimodel
import pytest

from implicit_prm.data.groups import load_groups
from tests.conftest import write_rows


def _row(number, right, wrong):
    texts = [f"problem {number}, response {place}" for place in range(right + wrong)]
    return {
        "problem_id": f"p{number}",
        "problem": f"{number} + 1?",
        "answer": str(number + 1),
        "models": [f"model {place}" for place in range(right + wrong)],
        "responses": texts,
        "correct": [True] * right + [False] * wrong,
    }


def _prepare(monkeypatch, folder, rows, *options):
    pool = write_rows(folder / "pool.jsonl", rows)
    arguments = [str(pool), "--out", str(folder), "--min-characters", "5", "--max-characters", "40", *options]
    monkeypatch.setattr(sys, "argv", ["prepare_multimodel.py", *arguments])
    prepare_multimodel.main()
    return [
        [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for name in ("train.jsonl", "held_out.jsonl")
    ]


def test_split_by_problem_and_limits_per_problem(monkeypatch, tmp_path, capsys):
    rows = [_row(number, 5, 4) for number in range(10)] + [_row(10, 5, 1), _row(11, 0, 9)]
    train, held_out = _prepare(monkeypatch, tmp_path, rows, "--held-out", "3", "--each", "2", "--held-out-each", "8")
    assert (len(train), len(held_out)) == (7, 3)
    assert {row["id"] for row in train + held_out} == {f"p{number}" for number in range(10)}
    for row in train:
        assert sorted(row["correctness"]) == [False, False, True, True]
    for row in held_out:
        assert sorted(row["correctness"]) == [False] * 4 + [True] * 5
    pool = {row["problem_id"]: row for row in rows}
    for row in train + held_out:
        for text, label, model in zip(row["completions"], row["correctness"], row["models"], strict=True):
            place = pool[row["id"]]["responses"].index(text)
            assert (label, model) == (pool[row["id"]]["correct"][place], pool[row["id"]]["models"][place])
    assert "12 problems, 10 suitable" in capsys.readouterr().out
    assert load_groups(str(tmp_path / "train.jsonl"))[0].prompt == train[0]["prompt"]


def test_the_same_seed_writes_the_same_files(monkeypatch, tmp_path):
    rows = [_row(number, 5, 4) for number in range(6)]
    files = {}
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        (tmp_path / name).mkdir()
        files[name] = _prepare(monkeypatch, tmp_path / name, rows, "--held-out", "2", "--seed", seed)
    assert files["a"] == files["b"] != files["c"]


def test_unsuitable_responses_are_left_out_by_reason(monkeypatch, tmp_path, capsys):
    row = _row(0, 4, 4)
    row["responses"][:3] = ["a", "\x0crac{1}{2} of it", row["responses"][7]]
    parts = _prepare(monkeypatch, tmp_path, [row, _row(1, 3, 3)], "--held-out", "1")
    assert '{"length": 1, "control characters": 1, "copy": 1}' in capsys.readouterr().out
    (kept,) = [one for part in parts for one in part if one["id"] == "p0"]
    assert sorted(kept["completions"]) == sorted(row["responses"][2:7])


def test_no_training_problem_is_left(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="--held-out 2"):
        _prepare(monkeypatch, tmp_path, [_row(0, 3, 3), _row(1, 3, 3)], "--held-out", "2")
