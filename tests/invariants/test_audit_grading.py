"""The audit of grades, run as a user runs it, on a pool small enough to count by hand."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "audit_grading.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def test_every_disagreement_is_counted_and_listed(tmp_path):
    rows = [
        {
            "problem": "1/2?",
            "answer": "0.5",
            "models": ["a", "b", "b"],
            "responses": [r"It is \boxed{\frac12}.", "So it is 3.", "I cannot tell."],
            "preds": ["0.5", "0.5", "1"],
            "correct": [True, True, False],
        },
        {
            "problem": "2?",
            "answer": "2",
            "models": ["a", "b", "b"],
            "responses": ["Thus it is 2.", "Thus it is 2.", "Hm."],
            "preds": ["2", "2", "4-2"],
            "correct": [False, True, False],
        },
    ]
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(pool, "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    report = (tmp_path / "out" / "report.md").read_text()
    alone, whole = report.split("## pool, ")[1:3]
    assert "6 responses to 2 problems, 2 disagreements: agreement 66.67%" in alone
    assert "| equal | 2 | 1 |" in alone
    assert "| different | 1 | 0 |" in alone
    assert "| no_answer | 0 | 2 |" in alone
    assert "| a | 2 | 50.00% |" in alone
    assert "6 responses to 2 problems, 2 disagreements" in whole
    found = [json.loads(line) for line in (tmp_path / "out" / "disagreements.jsonl").read_text().splitlines()]
    assert [(row["class"], row["answer"], row["gold"]) for row in found] == [
        ("the reasoning ends in another value than the answer field", "3", "0.5"),
        ("more lenient than the label", "2", "2"),
        ("more lenient than the label", "2", "2"),
        ("more lenient than the label", "4-2", "2"),
    ]
    assert "| pool, reasoning and answer | more lenient than the label | 2 |" in report


def test_a_pool_without_answers_is_refused(tmp_path):
    pool = tmp_path / "pool.jsonl"
    pool.write_text(json.dumps({"problem": "?", "responses": ["1"], "correct": [True]}) + "\n")
    result = run(pool, "--output", tmp_path / "out")
    assert result.returncode == 1
    assert "no column answer" in result.stderr
    assert "Traceback" not in result.stderr
