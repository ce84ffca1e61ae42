"""Sampling: resumed equals uninterrupted, nothing lost or doubled, other settings refused."""

import json

import pytest

from implicit_prm import rollouts, sandbox
from implicit_prm.config import PolicyConfig, ProblemsConfig, RolloutConfig, SamplingConfig
from implicit_prm.records import ImplicitPRMError


def quiet(*_):
    pass


@pytest.fixture
def config(tmp_path, tiny_folder):
    return RolloutConfig(
        policy=PolicyConfig(str(tiny_folder)),
        problems=ProblemsConfig("sandbox", "train", limit=7),
        sampling=SamplingConfig(n=3, max_new_tokens=12, batch_size=3, seed=5),
        output=str(tmp_path / "rollouts.jsonl"),
    )


def _read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_are_graded_groups_with_step_labels(config):
    path = rollouts.rollout(config, quiet)
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
    whole = rollouts.rollout(config, quiet).read_bytes()
    config.output = str(tmp_path / "again.jsonl")
    (tmp_path / "again.jsonl.meta.json").write_bytes((tmp_path / "rollouts.jsonl.meta.json").read_bytes())
    lines = whole.splitlines(keepends=True)
    (tmp_path / "again.jsonl").write_bytes(b"".join(lines[:died_after]) + lines[died_after][:20])
    assert rollouts.rollout(config, quiet).read_bytes() == whole


def test_an_interruption_between_problems_loses_nothing(config, monkeypatch, tmp_path):
    whole = rollouts.rollout(config, quiet).read_bytes()
    config.output = str(tmp_path / "again.jsonl")
    append, calls = rollouts.JsonLines.append, []

    def interrupted(self, row):
        calls.append(row)
        if len(calls) == 5:
            raise KeyboardInterrupt
        append(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(rollouts.JsonLines, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rollouts.rollout(config, quiet)
    assert len(_read(tmp_path / "again.jsonl")) == 4
    assert rollouts.rollout(config, quiet).read_bytes() == whole


def test_a_finished_file_needs_no_model(config):
    rollouts.rollout(config, quiet)
    config.problems.limit = 4  # a part of what is there
    said = []
    rollouts.rollout(config, said.append)
    assert "all 4 problems are there already" in said[0]


def test_other_settings_are_refused_and_more_problems_are_not(config):
    rollouts.rollout(config, quiet)
    config.problems.limit = 8
    assert len(_read(rollouts.rollout(config, quiet))) == 8
    config.sampling.temperature = 0.5
    with pytest.raises(ImplicitPRMError, match=r"was made with sampling.temperature=1.0, now it is 0.5"):
        rollouts.rollout(config, quiet)


def test_a_file_of_unknown_making_is_left_alone(config, tmp_path):
    (tmp_path / "rollouts.jsonl").write_text('{"id": "mine"}\n')
    with pytest.raises(ImplicitPRMError, match="give another output"):
        rollouts.rollout(config, quiet)
    assert (tmp_path / "rollouts.jsonl").read_text() == '{"id": "mine"}\n'


def test_the_prompt_column_is_what_was_sampled_from(config):
    config.problems.prompt_template = "Solve {problem}"
    config.problems.system_prompt = "Be brief"
    row = _read(rollouts.rollout(config, quiet))[0]
    text = sandbox.problems("train", 1)[0].text
    assert row["prompt"] == [{"role": "system", "content": "Be brief"}, {"role": "user", "content": f"Solve {text}"}]
