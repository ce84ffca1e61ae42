"""Opening tokenizers and models: what opens, and a clear error for everything that cannot be opened."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForSequenceClassification, T5Config

from implicit_prm import ImplicitPRM, fit
from implicit_prm.models import loading
from implicit_prm.models.source import ModelSource
from implicit_prm.types import ImplicitPRMError
from tests.conftest import tiny_model
from tests.runs import adapter, config, quiet

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"


@pytest.fixture
def sharded(tmp_path, tokenizer):
    tiny_model(tokenizer).save_pretrained(tmp_path, max_shard_size="30KB")
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def other_vocabulary(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 40}))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("model-00002-of-00004.safetensors", os.unlink, r"model-00002-of-00004\.safetensors .*3 of 4"),
        ("model-00002-of-00004.safetensors", truncate, r"model-00002-of-00004\.safetensors"),
        ("model-00002-of-00004.safetensors", lambda p: p.write_text(POINTER), "git lfs pull"),
        ("model-00002-of-00004.safetensors", lambda p: p.write_text(""), r"00002-of-00004\.safetensors is empty"),
        ("model.safetensors.index.json", truncate, r"model\.safetensors\.index\.json"),
        ("model.safetensors.index.json", os.unlink, r"model\.safetensors"),
        ("config.json", os.unlink, r"config\.json"),
        ("config.json", truncate, r"config\.json"),
        ("config.json", other_vocabulary, r"config\.json"),
    ],
)
def test_a_damaged_model_is_refused(file, damage, message, sharded):
    damage(sharded / file)
    with pytest.raises(ImplicitPRMError, match=f"{sharded}.*{message}"):
        loading.open_model(ModelSource.resolve(sharded))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (os.unlink, r"\.json is missing"),
        (truncate, ""),
        (lambda path: path.write_text(POINTER), "git lfs pull"),
    ],
)
def test_a_damaged_tokenizer_is_refused(damage, message, sharded):
    damage(sharded / "tokenizer.json")
    with pytest.raises(ImplicitPRMError, match=f"tokenizer.*{sharded}.*{message}|{sharded}.*tokenizer.*{message}"):
        loading.open_tokenizer(ModelSource.resolve(sharded))


def test_a_tokenizer_that_fails_at_unknown_words_is_refused(sharded):
    described = json.loads((sharded / "tokenizer.json").read_text())
    described["model"]["unk_token"] = "missing"
    (sharded / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(ImplicitPRMError, match=str(sharded)):
        loading.open_tokenizer(ModelSource.resolve(sharded))


def test_missing_weights_are_not_initialised_at_random(tmp_path, tokenizer):
    LlamaForSequenceClassification(tiny_model(tokenizer).config).save_pretrained(tmp_path)
    with pytest.raises(ImplicitPRMError, match=r"lm_head\.weight"):
        loading.open_model(ModelSource.resolve(tmp_path))


def test_an_encoder_decoder_is_refused(tmp_path):
    T5Config().save_pretrained(tmp_path)
    with pytest.raises(ImplicitPRMError, match="encoder-decoder"):
        loading.open_model(ModelSource.resolve(tmp_path))


def test_a_value_head_is_added_only_on_request_and_starts_at_zero(tokenizer, tmp_path):
    tiny_model(tokenizer).save_pretrained(tmp_path / "causal")
    causal = ModelSource.resolve(tmp_path / "causal")
    with pytest.raises(ImplicitPRMError, match=r"score\.bias"):
        loading.open_model(causal, head="value")
    model = loading.open_model(causal, head="new_value")
    assert type(model).__name__ == "LlamaForTokenClassification"
    assert model(torch.tensor([[5, 6]])).logits.tolist() == [[[0.0], [0.0]]]
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(tmp_path / "value")
    saved = ModelSource.resolve(tmp_path / "value")
    for head in ("value", "new_value"):
        torch.testing.assert_close(loading.open_model(saved, head=head).score.weight, model.score.weight)
    weights = load_file(tmp_path / "value" / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "value" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ImplicitPRMError, match=r"model\.norm\.weight"):
        loading.open_model(saved, head="new_value")


def spoil(file, value):
    """Put one such value into a safetensors file; returns the name of its tensor."""
    weights = load_file(file)
    name = max(weights)
    weights[name].view(-1)[-1] = value
    save_file(weights, file, metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(value, dtype, tmp_path, tokenizer):
    tiny_model(tokenizer).to(getattr(torch, dtype)).save_pretrained(tmp_path)
    name = spoil(tmp_path / "model.safetensors", value)
    with pytest.raises(ImplicitPRMError, match=f"{tmp_path} .*{name}"):
        loading.open_model(ModelSource.resolve(tmp_path), dtype)


def test_scoring_and_training_refuse_models_that_are_not_finite(tmp_path, tokenizer, tiny_folder, rollouts_file):
    broken = tmp_path / "broken"
    tiny_model(tokenizer).save_pretrained(broken)
    tokenizer.save_pretrained(broken)
    spoil(broken / "model.safetensors", float("nan"))
    broken_adapter = adapter(tmp_path / "adapter", tiny_folder)
    spoil(broken_adapter / "adapter_model.safetensors", float("nan"))
    for policy, reference in ((broken, tiny_folder), (tiny_folder, broken), (broken_adapter, "adapter_off")):
        with pytest.raises(ImplicitPRMError, match="not finite"):
            ImplicitPRM.from_pretrained(policy, reference=str(reference), beta=1.0)
    for start, options in (
        (broken, {}),
        (tiny_folder, {"reference": str(broken)}),
        (broken_adapter, {"reference": "start"}),
    ):
        with pytest.raises(ImplicitPRMError, match="not finite"):
            fit(config(tmp_path / "run", start, rollouts_file, model_options=options), quiet)
        assert not (tmp_path / "run" / "implicit_prm.json").exists()
