"""The script that compares shards with a single run."""

import sys

import check_sharded_scoring
import pytest

from implicit_prm.data.groups import load_groups


def test_the_responses_are_the_sandboxes_and_reproducible(tmp_path):
    for name in ("one.jsonl", "two.jsonl"):
        check_sharded_scoring.write_responses(tmp_path / name, 44)
    groups = load_groups(str(tmp_path / "one.jsonl"))
    assert [len(group) for group in groups] == [8] * 6
    assert {label for group in groups for label in group.correctness} == {True, False}
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


@pytest.mark.parametrize("arguments", [[], ["--ray", "--option", "beta=1.0"]])
def test_what_would_compare_nothing_is_refused(arguments, tmp_path, monkeypatch, capsys):
    output = tmp_path / "sharded"
    (output if arguments else output / "sharded").mkdir(parents=True)
    command = ["check_sharded_scoring.py", "--checkpoint", "sandbox", "--output", str(output), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        check_sharded_scoring.main()
    assert ("--option" if arguments else "--output") in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_shards_are_equal_to_one_run(tmp_path, monkeypatch, capfd):
    # The sandbox's policy as its own implicit PRM: every reward is log pi_theta.
    arguments = ["--checkpoint", "sandbox", "--option", "reference=none", "--option", "beta=1.0"]
    arguments += ["--responses", "1600", "--part", "64", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["check_sharded_scoring.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        check_sharded_scoring.main()
    assert stop.value.code == 0
    assert "status -9" in capfd.readouterr().out
