"""Merging a LoRA checkpoint: a plain model that scores the same against the base, whole or not at all."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from implicit_prm import ImplicitPRM, ImplicitPRMError, fit
from implicit_prm.config import MergeConfig
from implicit_prm.training.merge import merge
from implicit_prm.utils.lock import locked
from tests.conftest import graded_rows, write_rows
from tests.runs import adapter, config, quiet, scores


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_folder):
    folder = tmp_path_factory.mktemp("lora")
    rows = write_rows(folder / "rows.jsonl", graded_rows(8, 3))
    options = {"model_options": {"lora": {"r": 4}}, "max_steps": 2, "learning_rate": 2e-2}
    fit(config(folder / "run", tiny_folder, rows, **options), quiet)
    return folder / "run"


def test_merged_scores_what_the_adapter_does(checkpoint, tmp_path, tiny_folder):
    said = []
    assert merge(MergeConfig(str(checkpoint), str(tmp_path / "merged")), said.append) == tmp_path / "merged"
    assert said == []
    (rewards, references), ours = scores(checkpoint), scores(tmp_path / "merged")
    assert max(map(abs, rewards)) > 0.1
    assert ours[0] == pytest.approx(rewards, abs=1e-4)
    assert ours[1] == pytest.approx(references, abs=1e-4)
    prm = ImplicitPRM.from_pretrained(tmp_path / "merged", device="cpu")
    assert prm.metadata.reference == str(tiny_folder)
    assert prm.metadata.base is None
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not isinstance(prm.policy, PeftModel)
    torch.testing.assert_close(plain(torch.arange(20)[None]).logits, prm.policy(torch.arange(20)[None]).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert "merged into the base" in (tmp_path / "merged" / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_the_command(checkpoint, tmp_path, monkeypatch, capsys):
    from implicit_prm.cli.merge import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["ipr-merge", f"checkpoint={checkpoint}", "output_dir=merged"])
    main()
    assert capsys.readouterr().out.strip().endswith("merged: merged")
    for options, message in (([], "output_dir"), (["output_dir=merged"], "exists already")):
        monkeypatch.setattr("sys.argv", ["ipr-merge", f"checkpoint={checkpoint}", *options])
        with pytest.raises(SystemExit, match=f"ipr-merge: error: .*{message}"):
            main()


def test_a_folder_that_another_run_writes_is_refused(checkpoint, tmp_path):
    with locked(tmp_path / "merged"), pytest.raises(ImplicitPRMError, match="merged is being written by"):
        merge(MergeConfig(str(checkpoint), str(tmp_path / "merged")), quiet)


def test_half_precision_where_it_is_asked_for(checkpoint, tmp_path):
    merge(MergeConfig(str(checkpoint), str(tmp_path / "merged"), dtype="bfloat16"), quiet)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto").dtype == torch.bfloat16


def test_a_named_reference_stays(checkpoint, tmp_path, other_folder):
    metadata = json.loads((checkpoint / "implicit_prm.json").read_text())
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "implicit_prm.json").write_text(json.dumps({**metadata, "reference": str(other_folder)}))
    merge(MergeConfig(str(tmp_path), str(tmp_path / "merged")), quiet)
    assert ImplicitPRM.from_pretrained(tmp_path / "merged", device="cpu").metadata.reference == str(other_folder)


def test_merging_an_adapter_of_a_quantized_base_is_announced(checkpoint, tmp_path):
    metadata = json.loads((checkpoint / "implicit_prm.json").read_text())
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "implicit_prm.json").write_text(json.dumps({**metadata, "quantization": "4bit"}))
    said = []
    merge(MergeConfig(str(tmp_path), str(tmp_path / "merged")), said.append)
    assert "4bit" in said[0]
    assert scores(tmp_path / "merged")[0] == pytest.approx(scores(checkpoint)[0], abs=1e-4)


def test_what_cannot_be_merged(checkpoint, tmp_path, tiny_folder):
    def refused(match, folder, output=tmp_path / "merged"):
        with pytest.raises(ImplicitPRMError, match=match):
            merge(MergeConfig(str(folder), str(output)), quiet)
        assert not (tmp_path / "merged").exists()

    refused("no such folder", tmp_path / "nowhere")
    refused(r"has no implicit_prm\.json", tiny_folder)
    refused(r"has no implicit_prm\.json", adapter(tmp_path / "plain", tiny_folder))
    refused("exists already", checkpoint, tiny_folder)
    full = tmp_path / "full"
    AutoModelForCausalLM.from_pretrained(tiny_folder).save_pretrained(full)
    (full / "implicit_prm.json").write_text('{"beta": 1.0, "reference": "none"}')
    refused("full is not a LoRA adapter", full)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in checkpoint.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: 200 if file.suffix == ".safetensors" else None])
    refused("cannot open the adapter", broken)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]  # nothing half done is left
