"""Mistakes on the command line end in one sentence that names the argument and what to write instead."""

import sys

import pytest

from implicit_prm.cli import eval as eval_command
from implicit_prm.cli import merge, rollout, train

TOO_LONG = "x" * 300  # for the name of a file


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        (rollout, ["sampling.responses=8"], ["sampling.responses", "sampling.n?"]),
        (rollout, ["sampling.temprature=1"], ["sampling.temprature", "sampling.temperature?"]),
        (train, ["beta=0.1"], ["beta", "model.beta?"]),
        (train, ["lr=1e-4"], ["lr", "trainer.learning_rate?"]),
        (train, ["trainer.use_cpu=true"], ["trainer.use_cpu", "+trainer.use_cpu=VALUE"]),
        (train, ["zzz=1"], ["zzz", "--help"]),
        (train, ["loss=ppo"], ["loss/ppo", "dpo"]),
        (merge, ["checkpoint=paths/lr=1e-4"], ["checkpoint=paths/lr=1e-4", "'checkpoint=\"paths/lr=1e-4\"'"]),
        (merge, ["checkpoint=c"], ["output_dir"]),
        (merge, [f"checkpoint={TOO_LONG}", "output_dir=m"], [TOO_LONG]),
        (rollout, [f"output=a/{TOO_LONG}"], [TOO_LONG]),
        (train, [f"data.train={TOO_LONG}"], [TOO_LONG]),
        (train, [f"output_dir={TOO_LONG}"], [TOO_LONG]),
        (eval_command, [], ["checkpoint=FOLDER"]),
        (eval_command, ["--help", "task=bench"], ["task/bench"]),
    ],
)
def test_a_mistake_is_one_sentence(module, arguments, words, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ipr", *arguments])
    with pytest.raises(SystemExit) as caught:
        module.main()
    sentence = str(caught.value.code)
    assert len(sentence.splitlines()) == 1
    for word in words:
        assert word in sentence
    assert not capsys.readouterr().err
