"""scripts/study.py: the grid's options, what decides a claim, resuming, and the smallest study end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from studylib import work
from studylib.cells import World, grid
from studylib.claims import CLAIMS, VARIANTS, Comparison, overall
from studylib.measures import Measure
from studylib.tasks import Task, _begin, _identities, _overrides, _seconds

from implicit_prm import ImplicitPRMError

STUDY = Path(__file__).resolve().parents[2] / "scripts" / "study.py"
SMALLEST = ["--problems", "6", "--test-problems", "4", "--test-responses", "4", "--completions", "2", "--jobs", "2"]


@pytest.mark.parametrize("model", ["sandbox", "org/model"])
def test_every_task_is_a_command_with_options_that_hold(model, tmp_path):
    tasks = grid(World(model), (0, 1)).tasks()
    names = [task.name for task in tasks]
    assert len(set(names)) == len(names)
    for place, task in enumerate(tasks):
        assert set(task.needs) <= set(names[:place]), f"{task.name} comes before what it needs"
        overrides = _overrides(task, tmp_path)
        assert "{" not in " ".join(overrides).replace("{problem}", "")
        if "/1" in task.name:
            continue  # composing takes a while, and the options of a second seed differ in it alone
        work.options(work.COMMANDS[task.command], overrides)


def test_claims_and_variants_are_about_cells_that_there_are():
    study = grid(World(), (0,))
    named = {name for claim in CLAIMS for name in claim.rows}
    named |= {name for test in (*VARIANTS, *(t for claim in CLAIMS for t in claim.tests)) for name in (test.a, test.b)}
    assert named <= {cell.name for cell in study.cells}
    assert "exact" not in grid(World("org/model"), (0,))


def test_some_cells_bring_those_that_they_go_on_from():
    assert {cell.name for cell in grid(World(), (0,), ["dpo_none_ref", "autopsv"]).cells} == {
        *("dpo_none_ref", "dpo_none_none", "autopsv", "verifier")
    }
    with pytest.raises(ImplicitPRMError, match="no cell is called cee; there are ce, dpo"):
        grid(World(), (0,), ["cee"])


def test_a_change_of_what_is_needed_changes_what_needs_it():
    def identities(problems):
        return _identities(grid(World(problems=problems), (0,)).tasks())

    before, after = identities(5), identities(6)
    assert before == identities(5)
    assert before["ce/0"] != after["ce/0"]
    assert before["ce/0/eval"] != after["ce/0/eval"]
    assert before["sampled"] == after["sampled"]


def test_what_another_study_left_is_removed_and_what_was_interrupted_stays(tmp_path):
    mine, below = {"identity": "a", "command": "c"}, {"identity": "b", "seconds": 2.0}
    for folder, record in ((tmp_path, mine), (tmp_path / "eval", below)):
        folder.mkdir(exist_ok=True)
        (folder / "task.json").write_text(json.dumps(record))
        (folder / "rows.jsonl").write_text("{}")
    (tmp_path / "checkpoint-1").mkdir()
    assert (_seconds(tmp_path, "a"), _seconds(tmp_path / "eval", "b")) == (None, 2.0)
    _begin(tmp_path, mine)  # once more, after an interruption
    assert (tmp_path / "rows.jsonl").exists()
    _begin(tmp_path, mine | {"identity": "other"})
    assert not (tmp_path / "rows.jsonl").exists()
    assert not (tmp_path / "checkpoint-1").exists()
    assert _seconds(tmp_path / "eval", "b") == 2.0, "a task of its own"


def _measure(values, spread=0.0):
    values = np.array(values, dtype=float)
    noise = np.random.default_rng(0).normal(0, spread, (len(values), 2000)) if spread else np.zeros((len(values), 2000))
    return Measure(values, values[:, None] + noise)


def test_an_interval_resamples_seeds_too():
    """Two seeds that are 0.2 apart: a quarter of the draws is of one of them alone."""
    found = _measure([0.4, 0.6]).interval()
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.4, 0.6))
    assert _measure([0.5], spread=0.01).interval().high == pytest.approx(0.5196, abs=2e-3)


def test_differences_are_paired_by_seed_and_one_seed_goes_with_all():
    difference = (_measure([0.4, 0.6]) - _measure([0.3, 0.5])).interval()
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.1))
    assert (_measure([0.4, 0.6]) - _measure([0.5])).values.tolist() == pytest.approx([-0.1, 0.1])


@pytest.mark.parametrize(
    ("expected", "middle", "verdict"),
    [
        ("more", 0.05, "holds"),
        ("more", 0.0, "undecided"),
        ("more", -0.05, "does not hold"),
        ("not_less", 0.0, "holds"),
        ("not_less", -0.015, "undecided"),
        ("not_less", -0.05, "does not hold"),
        ("not_more", 0.0, "holds"),
        ("not_more", 0.05, "does not hold"),
        ("not_more", -0.05, "holds"),
    ],
)
def test_verdicts_come_from_intervals(expected, middle, verdict):
    figures = {"a": {"best": _measure([middle], spread=0.008)}, "b": {"best": _measure([0.0])}}
    test = Comparison("a", "b", expected)
    assert test.verdict(test.difference(figures.get)) == verdict
    assert Comparison("a", "c", expected).difference(figures.get) is None


def test_a_claim_holds_if_all_of_its_differences_do():
    assert overall(["holds", "holds"]) == "holds"
    assert overall(["holds", "undecided"]) == "holds in part"
    assert overall(["undecided", "does not hold"]) == "does not hold"
    assert overall(["undecided"]) == "undecided"


def _study(folder, *options, overrides=("trainer.max_steps=1",)):
    """Later options win."""
    command = [sys.executable, str(STUDY), *SMALLEST, "--out", "out", "--report", "docs/study.md"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *options, "--", *overrides],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def _check_report(folder):
    page = (folder / "docs" / "study.md").read_text()
    assert "## Scorers side by side" in page
    assert "| oracle (pass@N) |" in page
    html = (folder / "out" / "report.html").read_text()
    assert "data:image/png;base64" in html
    assert "http" not in html.split("<main>")[1].replace("https://arxiv.org", "")
    return page


def test_some_cells_end_to_end_and_nothing_is_done_twice(tmp_path):
    result = _study(tmp_path, "--seeds", "1", "--only", "ce", "ms_hard")
    assert result.returncode == 0, result.stderr[-3000:]
    page = _check_report(tmp_path)
    assert "| Math-Shepherd, hard |" in page
    assert "times the operations" in page
    record = tmp_path / "out" / "ce" / "0" / "task.json"
    assert json.loads(record.read_text())["command"].startswith("ipr-train model=sandbox")
    before = record.stat().st_mtime_ns

    # A second seed shares what is there.
    again = _study(tmp_path, "--seeds", "2", "--only", "ce", "ms_hard")
    assert again.returncode == 0, again.stderr[-3000:]
    assert record.stat().st_mtime_ns == before
    assert (tmp_path / "out" / "ce" / "1" / "task.json").exists()
    assert "2 training seeds" in _check_report(tmp_path)


def test_a_task_that_fails_is_named_with_its_command(tmp_path):
    result = _study(tmp_path, "--seeds", "1", "--only", "ce", overrides=["trainer.learning_rate=fast"])
    assert result.returncode == 1
    assert "study: error: ce/0 failed: trainer.learning_rate" in result.stderr
    assert "to repeat it alone: ipr-train model=sandbox" in result.stderr
    assert (tmp_path / "out" / "rollouts" / "task.json").exists()


@pytest.mark.slow
def test_the_smallest_grid_end_to_end(tmp_path):
    result = _study(tmp_path, "--seeds", "1")
    assert result.returncode == 0, result.stderr[-3000:]
    page = _check_report(tmp_path)
    for claim in CLAIMS:
        assert f"## {claim.title}" in page
    for name in ("scorers", "responses", "prompts", "votes"):
        assert (tmp_path / "docs" / "images" / f"study-{name}.png").stat().st_size > 10_000
    tasks = grid(World(), (0,)).tasks()
    assert all((tmp_path / "out" / task.name / "task.json").exists() for task in tasks)


@pytest.mark.slow
def test_the_same_seed_twice_gives_the_same_table(tmp_path):
    """Two folders, two processes at work in each, and all tables equal; only the minutes differ."""
    pages = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        options = ("--seeds", "1", "--only", "ce", "dpo_k2", "ms_hard", "autopsv")
        result = _study(tmp_path / name, *options, overrides=["trainer.max_steps=10"])
        assert result.returncode == 0, result.stderr[-3000:]
        page = _check_report(tmp_path / name).splitlines()
        pages.append([line for line in page if not line.startswith("Made by")])
        assert len(pages[-1]) == len(page) - 1
    assert pages[0] == pages[1]


def test_a_task_is_told_what_it_writes(tmp_path):
    task = Task("a/0", "train", ("data.train={b}/rows.jsonl", "reference_cache={study}/cache"), ("b",))
    assert _overrides(task, tmp_path) == [
        f"data.train={tmp_path}/b/rows.jsonl",
        f"reference_cache={tmp_path}/cache",
        f"output_dir={tmp_path}/a/0",
    ]
