"""scripts/study.py: the options of all tasks, verdicts, resuming, and a minimal study end to end."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from studylib import tasks, work
from studylib.cells import World, grid
from studylib.claims import CLAIMS, VARIANTS, Comparison, overall
from studylib.measures import Measure
from studylib.tasks import Task, _hashes, _overrides, _prepare, _seconds

from implicit_prm import ImplicitPRMError

STUDY = Path(__file__).resolve().parents[2] / "scripts" / "study.py"
SMALLEST = ["--problems", "6", "--test-problems", "4", "--test-responses", "4", "--completions", "2", "--jobs", "2"]


@pytest.mark.parametrize("model", ["sandbox", "org/model"])
def test_options_of_every_task_are_valid(model, tmp_path):
    tasks = grid(World(model), (0, 1)).tasks()
    names = [task.name for task in tasks]
    assert len(set(names)) == len(names)
    for place, task in enumerate(tasks):
        assert set(task.needs) <= set(names[:place]), f"{task.name} comes before a task that it needs"
        overrides = _overrides(task, tmp_path)
        assert "{" not in " ".join(overrides).replace("{problem}", "")
        if "/1" in task.name:
            continue  # composing is slow, and only the seed differs
        work.options(work.COMMANDS[task.command], overrides)


def test_claims_and_variants_name_existing_cells():
    study = grid(World(), (0,))
    named = {name for claim in CLAIMS for name in claim.rows}
    named |= {name for test in (*VARIANTS, *(t for claim in CLAIMS for t in claim.tests)) for name in (test.a, test.b)}
    assert named <= {cell.name for cell in study.cells}
    assert "exact" not in grid(World("org/model"), (0,))


def test_selected_cells_include_the_cells_they_need():
    assert {cell.name for cell in grid(World(), (0,), ["dpo_none_ref", "autopsv"]).cells} == {
        *("dpo_none_ref", "dpo_none_none", "autopsv", "verifier")
    }
    with pytest.raises(ImplicitPRMError, match=r"cee.* ce, dpo"):
        grid(World(), (0,), ["cee"])


def test_hash_of_a_task_depends_on_the_tasks_it_needs():
    def hashes(problems):
        return _hashes(grid(World(problems=problems), (0,)).tasks())

    before, after = hashes(5), hashes(6)
    assert before == hashes(5)
    assert before["ce/0"] != after["ce/0"]
    assert before["ce/0/eval"] != after["ce/0/eval"]
    assert before["sampled"] == after["sampled"]


def test_files_of_another_task_are_removed_and_those_of_an_interrupted_one_kept(tmp_path):
    record, nested = {"identity": "a", "command": "c"}, {"identity": "b", "seconds": 2.0}
    for folder, content in ((tmp_path, record), (tmp_path / "eval", nested)):
        folder.mkdir(exist_ok=True)
        (folder / "task.json").write_text(json.dumps(content))
        (folder / "rows.jsonl").write_text("{}")
    (tmp_path / "checkpoint-1").mkdir()
    assert (_seconds(tmp_path, "a"), _seconds(tmp_path / "eval", "b")) == (None, 2.0)
    _prepare(tmp_path, record)  # again, after an interruption
    assert (tmp_path / "rows.jsonl").exists()
    _prepare(tmp_path, record | {"identity": "other"})
    assert not (tmp_path / "rows.jsonl").exists()
    assert not (tmp_path / "checkpoint-1").exists()
    assert _seconds(tmp_path / "eval", "b") == 2.0, "the folder of another task stays"


def test_a_task_that_fails_stops_only_those_that_need_it(tmp_path, monkeypatch):
    done, broken = [], {"a/0"}

    def do(command, overrides, folder):
        done.append(folder.relative_to(tmp_path).as_posix())
        if done[-1] in broken:
            raise ImplicitPRMError("no")

    monkeypatch.setattr(work, "do", do)
    monkeypatch.setattr(tasks, "_pool", ThreadPoolExecutor)
    both = [Task("a/0", "train"), Task("a/0/eval", "measure", needs=("a/0",)), Task("b/0", "train")]
    seconds, (failure,) = tasks.run(both, tmp_path, jobs=1)
    assert done == ["a/0", "b/0"]
    assert seconds.keys() == {"b/0"}
    assert str(tmp_path / "a" / "0" / work.LOG) in failure
    broken.clear()
    seconds, failures = tasks.run(both, tmp_path, jobs=1)
    assert done == ["a/0", "b/0", "a/0", "a/0/eval"]
    assert (seconds.keys(), failures) == ({"a/0", "a/0/eval", "b/0"}, [])


def test_cells_without_all_results_are_left_out():
    study = grid(World(), (0, 1), ["ce", "likelihood"])
    assert [cell.name for cell in study.with_results({"ce/0/eval", "likelihood/eval"}).cells] == ["likelihood"]
    assert len(study.with_results({"ce/0/eval", "ce/1/eval", "likelihood/eval"}).cells) == 2


def _measure(values, spread=0.0):
    values = np.array(values, dtype=float)
    noise = np.random.default_rng(0).normal(0, spread, (len(values), 2000)) if spread else np.zeros((len(values), 2000))
    return Measure(values, values[:, None] + noise)


def test_intervals_resample_seeds():
    """Of two seeds, a quarter of the draws contains only the first, and a quarter only the second."""
    found = _measure([0.4, 0.6]).interval()
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.4, 0.6))
    assert _measure([0.5], spread=0.01).interval().high == pytest.approx(0.5196, abs=2e-3)


def test_differences_are_paired_by_seed_and_broadcast_a_single_seed():
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
def test_verdicts_depend_on_the_interval(expected, middle, verdict):
    figures = {"a": {"best": _measure([middle], spread=0.008)}, "b": {"best": _measure([0.0])}}
    test = Comparison("a", "b", expected)
    assert test.verdict(test.difference(figures.get)) == verdict
    assert Comparison("a", "c", expected).difference(figures.get) is None


def test_verdict_of_a_claim_combines_its_differences():
    assert overall(["holds", "holds"]) == "holds"
    assert overall(["holds", "undecided"]) == "holds in part"
    assert overall(["undecided", "does not hold"]) == "does not hold"
    assert overall(["undecided"]) == "undecided"


def _study(folder, *options, overrides=("trainer.max_steps=1",)):
    """Run the smallest study. Later options override earlier ones."""
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


@pytest.mark.slow
def test_selected_cells_end_to_end_and_done_tasks_are_skipped(tmp_path):
    result = _study(tmp_path, "--seeds", "1", "--only", "ce", "ms_hard")
    assert result.returncode == 0, result.stderr[-3000:]
    page = _check_report(tmp_path)
    assert "| Math-Shepherd, hard |" in page
    assert "times the operations" in page
    record = tmp_path / "out" / "ce" / "0" / "task.json"
    assert json.loads(record.read_text())["command"].startswith("ipr-train model=sandbox")
    before = record.stat().st_mtime_ns

    # A second seed reuses the finished tasks.
    again = _study(tmp_path, "--seeds", "2", "--only", "ce", "ms_hard")
    assert again.returncode == 0, again.stderr[-3000:]
    assert record.stat().st_mtime_ns == before
    assert (tmp_path / "out" / "ce" / "1" / "task.json").exists()
    assert "2 training seeds" in _check_report(tmp_path)


def test_failed_task_is_named_with_its_command(tmp_path):
    result = _study(tmp_path, "--seeds", "1", "--only", "ce", overrides=["trainer.learning_rate=fast"])
    assert result.returncode == 1
    assert "study: error: ce/0 failed: trainer.learning_rate" in result.stderr
    assert "ipr-train model=sandbox" in result.stderr
    assert (tmp_path / "out" / "rollouts" / "task.json").exists()


@pytest.mark.slow
def test_whole_grid_end_to_end(tmp_path):
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
def test_same_seed_gives_the_same_tables(tmp_path):
    """Two studies with two processes each differ only in their duration."""
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


def test_folders_in_overrides_are_filled_in(tmp_path):
    task = Task("a/0", "train", ("data.train={b}/rows.jsonl", "reference_cache={study}/cache"), ("b",))
    assert _overrides(task, tmp_path) == [
        f"data.train={tmp_path}/b/rows.jsonl",
        f"reference_cache={tmp_path}/cache",
        f"output_dir={tmp_path}/a/0",
    ]
