"""The record of a rollout file: its content, which differences are refused and which are not."""

import json
from pathlib import Path

import pytest

from implicit_prm.config import PolicyConfig, ProblemsConfig, RolloutConfig, SamplingConfig
from implicit_prm.rollouts import provenance
from implicit_prm.rollouts import run as rollouts
from implicit_prm.types import ImplicitPRMError


@pytest.fixture
def config(tmp_path, tiny_folder):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"id": f"p{k}", **_sum(k)}) + "\n" for k in range(4)))
    return RolloutConfig(
        policy=PolicyConfig(str(tiny_folder)),
        problems=ProblemsConfig(str(tmp_path / "p.jsonl"), prompt_template="{problem}"),
        sampling=SamplingConfig(n=2, max_new_tokens=4, seed=3),
        output=str(tmp_path / "r.jsonl"),
    )


def _sum(k):
    return {"problem": f"Modulo 50, left to right: 1 + {k}", "answer": str(k + 1)}


def _quiet(_):
    pass


def _record(config):
    return json.loads(Path(f"{config.output}.meta.json").read_text(encoding="utf-8"))


def _cut(config, rows):
    """Leave so many rows, as an interrupted run does."""
    path = Path(config.output)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:rows]))


def test_record_says_how_the_file_was_made(config, tokenizer):
    rollouts.rollout(config, _quiet)
    record = _record(config)
    settings, (run,) = record["settings"], record["runs"]
    assert settings["backend"] == "transformers"
    assert settings["policy"]["name"] == config.policy.name
    assert settings["model"]["commit"] is None
    assert settings["model"]["weight_bytes"]["model.safetensors"] > 10_000
    assert settings["sampling"] == {
        **{"n": 2, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4, "batch_size": 64, "seed": 3}
    }
    assert settings["prompt"] == {"template": "{problem}", "system_prompt": None}
    assert len(settings["chat_template_sha256"]) == 16
    assert settings["problems"] == {"name": config.problems.name, "split": "train", "revision": None}
    assert run["problems"]["count"] == 4
    assert len(run["problems"]["sha256"]) == 16
    assert {"python", "implicit-prm", "torch", "transformers"} <= run["versions"].keys()
    assert run["started"].startswith("20")
    assert run["processes"] == 1


def test_dates_and_versions_may_differ(config, monkeypatch):
    rollouts.rollout(config, _quiet)
    _cut(config, 2)
    monkeypatch.setattr(provenance, "version", lambda name: "0.0.1")
    rollouts.rollout(config, _quiet)
    first, second = _record(config)["runs"]
    assert first["versions"]["torch"] != second["versions"]["torch"] == "0.0.1"


def test_null_batch_size_equals_the_default_batch_size(config):
    rollouts.rollout(config, _quiet)
    _cut(config, 2)
    config.sampling.batch_size = 64
    rollouts.rollout(config, _quiet)
    _cut(config, 2)
    config.sampling.batch_size = 2
    with pytest.raises(ImplicitPRMError, match=r"sampling.batch_size=64.*=2"):
        rollouts.rollout(config, _quiet)


@pytest.mark.parametrize(
    ("group", "option", "value", "words"),
    [
        ("sampling", "seed", 4, "sampling.seed=3, but sampling.seed=4"),
        ("problems", "prompt_template", "Now: {problem}", "prompt.template=Now: {problem}"),
        ("problems", "system_prompt", "Hm", "prompt.system_prompt=None, but prompt.system_prompt=Hm"),
        ("policy", "dtype", "bfloat16", "policy.dtype=bfloat16"),
    ],
)
def test_options_that_change_responses_are_refused(group, option, value, words, config):
    rollouts.rollout(config, _quiet)
    before = _record(config)
    setattr(getattr(config, group), option, value)
    with pytest.raises(ImplicitPRMError) as caught:  # even if all problems are done
        rollouts.rollout(config, _quiet)
    assert words in str(caught.value)
    assert _record(config) == before


def test_other_weights_under_the_same_name_are_refused(config, tmp_path, tiny_folder):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config.policy.name = str(folder)
    rollouts.rollout(config, _quiet)
    _cut(config, 2)
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ImplicitPRMError, match=r"model.weight_bytes.model.safetensors=\d+"):
        rollouts.rollout(config, _quiet)


def test_other_chat_template_is_refused(config, tmp_path, tiny_folder):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config.policy.name = str(folder)
    rollouts.rollout(config, _quiet)
    _cut(config, 2)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{# another #}")
    with pytest.raises(ImplicitPRMError, match="chat_template_sha256="):
        rollouts.rollout(config, _quiet)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"problem": "Modulo 50, left to right: 2 + 2"}, "problem p0"),
        ({"answer": "9"}, "problem p0"),
        ({"id": "q"}, "problem p0"),
    ],
)
def test_changed_source_is_refused(change, words, config, tmp_path):
    rollouts.rollout(config, _quiet)
    _cut(config, 2)
    lines = (tmp_path / "p.jsonl").read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | change)
    (tmp_path / "p.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ImplicitPRMError) as caught:
        rollouts.rollout(config, _quiet)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"policy": {}}', '{"settings": 3, "runs": []}'])
def test_damaged_record_is_named(text, config, tmp_path):
    rollouts.rollout(config, _quiet)
    (tmp_path / "r.jsonl.meta.json").write_text(text)
    with pytest.raises(ImplicitPRMError, match=r"r\.jsonl\.meta\.json"):
        rollouts.rollout(config, _quiet)
