"""Rollouts: resumed equals uninterrupted, nothing is lost or doubled, other options are refused."""

import json
from dataclasses import dataclass

import pytest

from implicit_prm import sandbox
from implicit_prm.config import PolicyConfig, ProblemsConfig, RolloutConfig, SamplingConfig
from implicit_prm.rollouts import run
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.distributed import Processes


def quiet(*_):
    pass


@pytest.fixture
def config(tmp_path, tiny_folder):
    return RolloutConfig(
        policy=PolicyConfig(str(tiny_folder)),
        problems=ProblemsConfig("sandbox", limit=7, prompt_template="{problem}"),
        sampling=SamplingConfig(n=3, max_new_tokens=12, batch_size=3, seed=5),
        output=str(tmp_path / "rollouts.jsonl"),
    )


def _read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_are_graded_groups_with_step_labels(config):
    path = run.rollout(config, quiet)
    rows = _read(path)
    problems = sandbox.problems("train", 7)
    assert [row["id"] for row in rows] == [problem.id for problem in problems]
    for row, problem in zip(rows, problems, strict=True):
        assert row["prompt"] == problem.text
        assert len(row["completions"]) == len(row["correctness"]) == len(row["finished"]) == 3
        assert row["step_labels"] == [sandbox.check_steps(problem.text, text) for text in row["completions"]]
    assert not all(finished for row in rows for finished in row["finished"])


@pytest.mark.parametrize("died_after", [1, 3, 4])
def test_resumed_equals_uninterrupted(died_after, config, monkeypatch, tmp_path):
    whole = run.rollout(config, quiet).read_bytes()
    config.output = str(tmp_path / "again.jsonl")
    (tmp_path / "again.jsonl.meta.json").write_bytes((tmp_path / "rollouts.jsonl.meta.json").read_bytes())
    lines = whole.splitlines(keepends=True)
    (tmp_path / "again.jsonl").write_bytes(b"".join(lines[:died_after]) + lines[died_after][:20])
    assert run.rollout(config, quiet).read_bytes() == whole


def test_interruption_between_problems_loses_nothing(config, monkeypatch, tmp_path):
    whole = run.rollout(config, quiet).read_bytes()
    config.output = str(tmp_path / "again.jsonl")
    append, calls = run.JsonLines.append, []

    def interrupted(self, row):
        calls.append(row)
        if len(calls) == 5:
            raise KeyboardInterrupt
        append(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(run.JsonLines, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.rollout(config, quiet)
    assert len(_read(tmp_path / "again.jsonl")) == 4
    assert run.rollout(config, quiet).read_bytes() == whole


def test_finished_file_needs_no_model(config):
    run.rollout(config, quiet)
    config.problems.limit = 4  # fewer than the file has
    said = []
    run.rollout(config, said.append)
    assert "all 4 problems" in said[0]


def test_other_options_are_refused_and_more_problems_are_not(config):
    run.rollout(config, quiet)
    config.problems.limit = 8
    assert len(_read(run.rollout(config, quiet))) == 8
    config.sampling.temperature = 0.5
    with pytest.raises(ImplicitPRMError, match=r"sampling.temperature=1.0.*=0.5"):
        run.rollout(config, quiet)


def test_file_without_record_is_not_changed(config, tmp_path):
    (tmp_path / "rollouts.jsonl").write_text('{"id": "mine"}\n')
    with pytest.raises(ImplicitPRMError, match=r"rollouts\.jsonl.*output"):
        run.rollout(config, quiet)
    assert (tmp_path / "rollouts.jsonl").read_text() == '{"id": "mine"}\n'


def test_prompt_column_has_the_template_applied(config):
    config.problems.prompt_template = "Solve {problem}"
    config.problems.system_prompt = "Be brief"
    row = _read(run.rollout(config, quiet))[0]
    text = sandbox.problems("train", 1)[0].text
    assert row["prompt"] == [{"role": "system", "content": "Be brief"}, {"role": "user", "content": f"Solve {text}"}]


@dataclass(frozen=True)
class Team(Processes):
    """One of several processes, without the others: `gather` returns at once, or raises at the call `dies_at`."""

    dies_at: int = 99

    def gather(self, value):
        self.group.append(value)
        if len(self.group) == self.dies_at:
            raise KeyboardInterrupt
        return [value]


def test_parts_of_several_processes_make_the_file_of_one(config, tmp_path):
    """Rank 1 takes every second batch; the next run gathers its part, whatever its number of processes."""
    whole = run.rollout(config, quiet).read_bytes()
    config.output = str(tmp_path / "again.jsonl")
    first = Team(0, 2, [], dies_at=2)  # finishes its share, but dies before it gathers the parts
    with pytest.raises(KeyboardInterrupt):
        run._rollout(config, first, quiet)
    run._rollout(config, Team(1, 2, []), quiet)
    ids = [[row["id"][-1] for row in _read(tmp_path / f"again.jsonl.rank{rank}")] for rank in (0, 1)]
    assert ids == [["0", "1", "2", "6"], ["3", "4", "5"]]
    assert not (tmp_path / "again.jsonl").exists()
    assert run.rollout(config, quiet).read_bytes() == whole
    assert not list(tmp_path.glob("*.rank*"))


def test_work_of_a_process_is_kept_when_another_dies(config, tmp_path):
    whole = run.rollout(config, quiet).read_bytes()
    config.output = str(tmp_path / "again.jsonl")
    with pytest.raises(KeyboardInterrupt):
        run._rollout(config, Team(0, 2, [], dies_at=2), quiet)
    part = tmp_path / "again.jsonl.rank0"
    part.write_bytes(part.read_bytes()[:-30])  # its last row is incomplete
    said = []
    assert run._rollout(config, Team(0, 3, []), said.append).read_bytes().count(b"\n") == 6  # batches 0 and 1
    assert "3 problems" in said[0]
    assert run.rollout(config, quiet).read_bytes() == whole


def test_gathered_parts_that_were_not_removed_double_nothing(config, tmp_path):
    whole = run.rollout(config, quiet).read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "rollouts.jsonl.rank1").write_bytes(b"".join(lines[3:6]))
    assert run.rollout(config, quiet).read_bytes() == whole
    assert not list(tmp_path.glob("*.rank*"))


def test_parts_of_other_options_are_not_changed(config, tmp_path):
    run.rollout(config, quiet).rename(tmp_path / "rollouts.jsonl.rank0")
    config.sampling.seed = 6
    with pytest.raises(ImplicitPRMError, match=r"sampling.seed=5"):
        run.rollout(config, quiet)
    assert len(_read(tmp_path / "rollouts.jsonl.rank0")) == 7


def test_summary_has_accuracy_and_speed(config):
    said = []
    path = run.rollout(config, said.append)
    labels = [label for row in _read(path) for label in row["correctness"]]
    assert f"21 responses to 7 problems: {sum(labels) / 21:.1%} correct" in said[-2]
    assert "tokens/s" in said[-1]


def test_longer_run_stays_in_the_order_of_the_problems(config):
    config.problems.limit = 4
    run.rollout(config, quiet)
    config.problems.limit = 7
    longer = [row["id"] for row in _read(run.rollout(config, quiet))]
    assert longer == [problem.id for problem in sandbox.problems("train", 7)]
    config.problems.limit = 2
    assert [row["id"] for row in _read(run.rollout(config, quiet))] == longer
