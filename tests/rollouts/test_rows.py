"""The rows of a rollout file: each is read once, by its place on disk, and no text is held."""

import json
import tracemalloc

import pytest

from implicit_prm.config import TextConfig
from implicit_prm.rollouts.rows import RolloutRows, part
from implicit_prm.types import ImplicitPRMError, Problem
from implicit_prm.utils.io import JsonLines

PROBLEMS = [Problem(f"p{n}", f"What is {n} + 1?", str(n + 1)) for n in range(6)]
TEXT = TextConfig(prompt_template="{problem}")


def _row(number, characters=10):
    problem = PROBLEMS[number]
    return {
        "id": problem.id,
        "prompt": problem.text,
        "answer": problem.answer,
        "completions": ["é" * characters, "b"],
        "correctness": [True, False],
        "finished": [True, number % 2 == 0],
    }


def _write(path, *numbers):
    log = JsonLines(path)
    for number in numbers:
        log.append(_row(number))
    return path


def _numbers(path):
    return [int(json.loads(line)["id"][1:]) for line in path.read_text(encoding="utf-8").splitlines()]


def test_parts_are_gathered_in_order_without_repeats(tmp_path):
    path = _write(tmp_path / "rows.jsonl", 4, 1)
    _write(part(path, 0), 5, 1)
    _write(part(path, 1), 0)
    rows = RolloutRows(path, PROBLEMS, TEXT)
    rows.read()
    rows.gather()
    assert _numbers(path) == [0, 1, 4, 5]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]
    assert rows.summary() == "8 responses to 4 problems: 50.0% correct, 25.0% cut off"


def test_only_new_rows_are_read_again(tmp_path, monkeypatch):
    path = _write(tmp_path / "rows.jsonl", 0, 3)
    rows = RolloutRows(path, PROBLEMS, TEXT)
    rows.read()
    rows.gather()
    _write(path, 2)
    parsed, check = [], RolloutRows._check
    monkeypatch.setattr(RolloutRows, "_check", lambda self, row: [parsed.append(row["id"]), check(self, row)])
    rows.read()
    rows.gather()
    assert parsed == ["p2"]
    assert _numbers(path) == [0, 2, 3]


@pytest.mark.parametrize("tail", ["", '{"id": "p5", "pro'])
def test_last_line_without_newline(tail, tmp_path):
    """A complete row counts, as some editors leave it; an incomplete one is removed."""
    path = _write(tmp_path / "rows.jsonl", 0, 3)
    whole = path.read_text(encoding="utf-8")
    path.write_text((whole + tail) if tail else whole.rstrip("\n"), encoding="utf-8")
    rows = RolloutRows(path, PROBLEMS, TEXT)
    rows.read()
    rows.gather()
    assert path.read_text(encoding="utf-8") == whole


def test_sorted_file_is_not_written_again(tmp_path):
    path = _write(tmp_path / "rows.jsonl", 1, 2)
    before = path.stat().st_ino
    rows = RolloutRows(path, PROBLEMS, TEXT)
    rows.read()
    rows.gather()
    assert path.stat().st_ino == before


def test_memory_does_not_grow_with_the_texts(tmp_path):
    path = tmp_path / "rows.jsonl"
    for number in range(6):
        JsonLines(path).append(_row(number, 1_000_000))
    rows = RolloutRows(path, PROBLEMS, TEXT)
    tracemalloc.start()
    rows.read()
    rows.gather()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000
    assert peak < path.stat().st_size  # one row at a time, of six


def test_changed_problem_is_refused_before_the_file_is_written(tmp_path):
    path = _write(tmp_path / "rows.jsonl", 3, 1)
    before = path.read_bytes()
    changed = [Problem(one.id, one.text, "7") if one.id == "p1" else one for one in PROBLEMS]
    with pytest.raises(ImplicitPRMError, match=r"rows\.jsonl.*p1"):
        RolloutRows(path, changed, TEXT).read()
    with pytest.raises(ImplicitPRMError, match=r"rows\.jsonl.*p1"):
        RolloutRows(path, [one for one in PROBLEMS if one.id != "p1"], TEXT).read()
    assert path.read_bytes() == before
