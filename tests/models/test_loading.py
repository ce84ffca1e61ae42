"""What is opened, what is refused, and what tells weights from others."""

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import T5Config

from implicit_prm.config import PolicyConfig
from implicit_prm.models import loading
from implicit_prm.types import ImplicitPRMError
from tests.conftest import tiny_model


def test_a_value_head_is_new_only_where_it_may_be(tokenizer, tmp_path):
    tiny_model(tokenizer).save_pretrained(tmp_path / "causal")
    policy = PolicyConfig(str(tmp_path / "causal"))
    with pytest.raises(ImplicitPRMError, match=r"have no weights for score\.bias"):
        loading.open_model(policy, head="value")
    model = loading.open_model(policy, head="new_value")
    assert type(model).__name__ == "LlamaForTokenClassification"
    assert model(torch.tensor([[5, 6]])).logits.shape == (1, 2, 1)
    model.save_pretrained(tmp_path / "value")
    again = loading.open_model(PolicyConfig(str(tmp_path / "value")), head="value")
    torch.testing.assert_close(again.score.weight, model.score.weight)
    weights = load_file(tmp_path / "value" / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "value" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ImplicitPRMError, match=r"no weights for model\.norm\.weight"):
        loading.open_model(PolicyConfig(str(tmp_path / "value")), head="new_value")


def test_what_cannot_be_opened_is_named(tmp_path, tokenizer, tiny_folder):
    with pytest.raises(ImplicitPRMError, match="cannot open the model 'no/such-model'"):
        loading.open_model(PolicyConfig("no/such-model"))
    T5Config().save_pretrained(tmp_path / "t5")
    with pytest.raises(ImplicitPRMError, match="encoder-decoder"):
        loading.open_model(PolicyConfig(str(tmp_path / "t5")))


def test_weights_are_told_by_the_commit_of_a_hub_id_and_the_sizes_of_a_folder(tmp_path, tiny_folder, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--me--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    (tmp_path / "models--me--model" / "refs").mkdir()
    (tmp_path / "models--me--model" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert loading.weights_of(PolicyConfig("me/model")) == {"commit": commit, "weight_bytes": {}}
    size = (tiny_folder / "model.safetensors").stat().st_size
    assert loading.weights_of(PolicyConfig(str(tiny_folder))) == {
        "commit": None,
        "weight_bytes": {"model.safetensors": size},
    }
    with pytest.raises(ImplicitPRMError, match="cannot open the model 'no/where'"):
        loading.weights_of(PolicyConfig("no/where"))
