"""Mistakes on the command line end in one sentence that names the argument and what to write instead."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from implicit_prm.cli import command, merge, rollout, train
from implicit_prm.cli import eval as eval_command
from implicit_prm.config import MergeConfig

TOO_LONG = "x" * 300  # for the name of a file


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        (rollout, ["sampling.responses=8"], ["sampling.responses", "sampling.n?"]),
        (rollout, ["sampling.temprature=1"], ["sampling.temprature", "sampling.temperature?"]),
        (train, ["beta=0.1"], ["beta", "model.beta?"]),
        (train, ["lr=1e-4"], ["lr", "trainer.learning_rate?"]),
        (train, ["trainer.use_cpu=true"], ["trainer.use_cpu", "+trainer.use_cpu=VALUE"]),
        (rollout, ["policy=server", "policy.extra_body.top=1"], ["+policy.extra_body.top=VALUE"]),
        (train, ["zzz=1"], ["zzz", "--help"]),
        (train, ["loss=ppo"], ["loss/ppo", "dpo"]),
        (merge, ["checkpoint=paths/lr=1e-4"], ["checkpoint=paths/lr=1e-4", "'checkpoint=\"paths/lr=1e-4\"'"]),
        (merge, ["checkpoint=c"], ["output_dir"]),
        (merge, [f"checkpoint={TOO_LONG}", "output_dir=m"], [TOO_LONG[:40]]),
        (rollout, [f"output=a/{TOO_LONG}"], [TOO_LONG[:40]]),
        (train, [f"data.train={TOO_LONG}"], [TOO_LONG[:40]]),
        (train, [f"output_dir={TOO_LONG}"], [TOO_LONG[:40]]),
        (eval_command, [], ["checkpoint=FOLDER"]),
        (eval_command, ["--help", "task=bench"], ["task/bench"]),
        (train, ["+trainer.hub_token=s3same=x"], ["trainer.hub_token=***: ", "double quotes"]),
        (train, ["+trainer.hub_token={s3same"], ["trainer.hub_token=***"]),
        (train, ["+trainer.hub_tokn=s3same"], ["trainer.hub_tokn"]),
        (rollout, ["policy=server", "policy.name=m", "policy.base_url=http://:s3same@h/v1"], ["policy.base_url"]),
        (rollout, ["policy=server", "policy.name=m", "policy.base_url=http://h/v1#k=s3same"], ["policy.base_url"]),
        (rollout, ["policy=server", "policy.name=m", "policy.base_url=x://:s3same@h"], ["policy.base_url=x://***@h"]),
        (
            rollout,
            ["policy=server", "policy.name=m", "policy.base_url=http://h", "policy.api_key_env=sk-s3same"],
            ["policy.api_key_env"],
        ),
    ],
)
def test_a_mistake_is_one_sentence(module, arguments, words, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ipr", *arguments])
    with pytest.raises(SystemExit) as caught:
        module.main()
    sentence = str(caught.value.code)
    assert len(sentence.splitlines()) == 1
    assert "s3same" not in sentence
    for word in words:
        assert word in sentence
    assert not capsys.readouterr().err


def _command(module, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", f"implicit_prm.cli.{module}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )


def test_a_reader_that_closes_the_pipe_ends_the_command_quietly():
    process = _command("train", "--help")
    process.stdout.close()  # before the first line
    assert process.stderr.read() == b""
    assert process.wait(60) == 128 + signal.SIGPIPE


def test_help_of_options_with_credentials(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ipr-train", "--help", "+trainer.hub_token=s3same"])
    train.main()
    printed = capsys.readouterr().out
    assert "trainer.hub_token=***" in printed
    assert "s3same" not in printed


def test_any_text_is_printed_whatever_the_encoding():
    process = _command("cache", 'reference_cache="\u2211"', PYTHONIOENCODING="latin-1")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert out.startswith(b"\\u2211: ")


@pytest.mark.parametrize("gpu", [False, True])
def test_freed_memory_is_kept_on_a_cpu(monkeypatch, gpu):
    called = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(command, "keep_freed_memory", lambda: called.append("allocator"))
    tree = OmegaConf.create({"checkpoint": "c", "output_dir": "m"})
    command.run("ipr-merge", MergeConfig, tree, lambda config: called.append(config.checkpoint))
    assert called == (["c"] if gpu else ["allocator", "c"])


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_sigterm_ends_with_its_status_whatever_a_library_makes_of_it(capsys):
    """Code in C++ that calls back into Python may turn any exception into another one."""

    def interrupted(_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("could not determine the shape") from None

    with pytest.raises(SystemExit) as caught:
        command.run("ipr-merge", MergeConfig, OmegaConf.create({"checkpoint": "c", "output_dir": "o"}), interrupted)
    assert caught.value.code == 128 + signal.SIGTERM
    assert "terminated" in capsys.readouterr().err
