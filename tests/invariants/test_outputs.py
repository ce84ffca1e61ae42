"""Every command leaves alone what another run is writing, and what it did not make itself."""

import json
import shutil

import pytest

from implicit_prm import ImplicitPRMError, fit
from implicit_prm.baselines import run as baseline_run
from implicit_prm.baselines.labels.run import label
from implicit_prm.config import (
    BestOfNConfig,
    ExactConfig,
    PolicyConfig,
    ProblemsConfig,
    ProcessBenchConfig,
    RolloutConfig,
    SamplingConfig,
)
from implicit_prm.evaluation.api import evaluate
from implicit_prm.evaluation.best_of_n.run import run_best_of_n
from implicit_prm.evaluation.process_bench.run import run_process_bench
from implicit_prm.rollouts.run import rollout
from implicit_prm.utils.lock import locked
from tests.baselines.runs import baseline
from tests.conftest import graded_rows, write_rows
from tests.runs import config, quiet

PROBLEMS = ProblemsConfig("sandbox", limit=2, prompt_template="{problem}")


def _rollout(folder, model, rows):
    sampling = SamplingConfig(n=1, max_new_tokens=2)
    rollout(RolloutConfig(PolicyConfig(str(model)), PROBLEMS, sampling, str(folder / "out")), quiet)


def _label(folder, model, rows):
    label(ExactConfig(input=str(rows), output=str(folder / "out")), quiet)


def _train(folder, model, rows):
    fit(config(folder / "out", model, rows, max_steps=1), quiet)


def _baseline(folder, model, rows):
    baseline_run.fit(baseline(folder / "out", model, rows, "orm"), quiet)


def _best_of_n(folder, model, rows):
    rollouts = RolloutConfig(PolicyConfig(str(model)), PROBLEMS, SamplingConfig(), "c.jsonl")
    options = {"candidates": str(rows), "scores_column": "scores", "output_dir": str(folder / "out")}
    run_best_of_n(BestOfNConfig(rollout=rollouts, **options), quiet)


def _process_bench(folder, model, rows):
    options = {"subsets": [str(folder / "bench.jsonl")], "scores_column": "scores", "output_dir": str(folder / "out")}
    run_process_bench(ProcessBenchConfig(**options), quiet)


def _evaluate(folder, model, rows):
    evaluate(str(rows), "scores", output_dir=folder / "out")


FILES, FOLDERS = [_rollout, _label], [_train, _baseline, _best_of_n, _process_bench, _evaluate]


@pytest.fixture
def rows(tmp_path):
    steps = ["2 + 3 = 6", "so 6"]
    bench = {
        "id": "gsm8k-0",
        "generator": "A",
        "problem": "2 + 3",
        "steps": steps,
        "label": 0,
        "final_answer_correct": False,
    }
    write_rows(tmp_path / "bench.jsonl", [{**bench, "scores": [0.1, 0.2]}])
    rows = [row | {"scores": [[0.1], [0.2]], "step_label_source": "exact"} for row in graded_rows(4, 2)]
    return write_rows(tmp_path / "rows.jsonl", rows)


@pytest.mark.parametrize("command", [*FILES, *FOLDERS])
def test_an_output_that_another_run_writes_is_refused(command, tmp_path, tiny_folder, rows):
    with (
        locked(tmp_path / "out", inside=command in FOLDERS),
        pytest.raises(ImplicitPRMError, match=r"out is being written by .*process \d+ on"),
    ):
        command(tmp_path, tiny_folder, rows)
    assert [path.name for path in tmp_path.rglob("out*") if path.is_file()] == []


# A document, one that is not finished, one on a single line without an end, a table, and a text.
@pytest.mark.parametrize(
    "content", ['{\n "a": 1\n}', '{"a": [1,', '{"a": 1}', '{"a": 1}\n{"a": 2}\n', "a,b\n1,2", "Dear"]
)
@pytest.mark.parametrize("command", FILES)
def test_a_file_of_the_users_own_is_refused_and_not_changed(command, content, tmp_path, tiny_folder, rows):
    (tmp_path / "out").write_text(content)
    with pytest.raises(ImplicitPRMError, match=r"out exists without out\.meta\.json"):
        command(tmp_path, tiny_folder, rows)
    assert (tmp_path / "out").read_text() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.jsonl", "out", "rows.jsonl"]


@pytest.mark.parametrize("name", ["model", "other"])
def test_a_model_of_the_users_own_is_not_trained_over(name, tmp_path, tiny_folder, rows):
    """Neither the one that training starts from, also with overwrite=true, nor another one."""
    for folder in ("model", "other"):
        shutil.copytree(tiny_folder, tmp_path / folder)
    before = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
    run = config(tmp_path / name, tmp_path / "model", rows, max_steps=1)
    explicit = baseline(tmp_path / name, tmp_path / "model", rows, "orm")
    for overwrite in (False, True) if name == "model" else (False,):
        run.overwrite = explicit.overwrite = overwrite
        for train, options in ((fit, run), (baseline_run.fit, explicit)):
            with pytest.raises(ImplicitPRMError, match=f"{name}.*set another output_dir"):
                train(options, quiet)
    assert {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} == before


def test_a_file_that_only_lacks_its_first_row_is_our_own(tmp_path, tiny_folder, rows):
    _label(tmp_path, tiny_folder, rows)
    whole = (tmp_path / "out").read_bytes()
    (tmp_path / "out").write_bytes(whole[:20])
    _label(tmp_path, tiny_folder, rows)
    assert (tmp_path / "out").read_bytes() == whole
    assert len(json.loads((tmp_path / "out.meta.json").read_text())["runs"]) == 1


@pytest.mark.parametrize("command", FILES)
def test_a_file_whose_rows_were_replaced_is_refused(command, tmp_path, tiny_folder, rows):
    command(tmp_path, tiny_folder, rows)
    (tmp_path / "out").write_text('{"a": 1}\n')
    with pytest.raises(ImplicitPRMError, match=r"out: .* has no .*id"):
        command(tmp_path, tiny_folder, rows)
    assert (tmp_path / "out").read_text() == '{"a": 1}\n'
