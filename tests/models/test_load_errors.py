"""Models that were downloaded by half: one sentence that names the file and the way out."""

import json
import os

import pytest
from transformers import LlamaForSequenceClassification

from implicit_prm import ImplicitPRMError
from implicit_prm.config import PolicyConfig
from implicit_prm.models.load_errors import damage
from implicit_prm.models.loading import open_model, open_tokenizer
from tests.conftest import tiny_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"


@pytest.fixture
def folder(tmp_path, tokenizer):
    tiny_model(tokenizer).save_pretrained(tmp_path, max_shard_size="30KB")
    tokenizer.save_pretrained(tmp_path)
    assert damage(tmp_path) is None
    return tmp_path


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def other_sizes(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 40}))


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("model-00002-of-00004.safetensors", os.unlink, r"model-00002-of-00004\.safetensors is missing \(3 of 4 files"),
        ("model-00002-of-00004.safetensors", cut, r"model-00002-of-00004\.safetensors is cut off or damaged"),
        ("model-00002-of-00004.safetensors", lambda p: p.write_text(POINTER), "git-lfs pointer.*git lfs pull"),
        ("model-00002-of-00004.safetensors", lambda p: p.write_text(""), r"00002-of-00004\.safetensors is empty"),
        ("model.safetensors.index.json", cut, r"model\.safetensors\.index\.json is damaged"),
        ("model.safetensors.index.json", os.unlink, "model.safetensors"),
        ("config.json", os.unlink, r"config\.json is missing"),
        ("config.json", cut, r"config\.json' is not a valid JSON"),
        ("config.json", other_sizes, r"other sizes than its config\.json says"),
    ],
)
def test_a_half_downloaded_model_is_named(file, change, sentence, folder):
    change(folder / file)
    with pytest.raises(ImplicitPRMError, match=f"cannot open the model .*{sentence}"):
        open_model(PolicyConfig(str(folder)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (os.unlink, r"no tokenizer that can be read: tokenizer\.json is missing"),
        (cut, "cannot open the tokenizer of"),
        (lambda path: path.write_text(POINTER), r"cannot open the tokenizer of .*tokenizer\.json is a git-lfs pointer"),
    ],
)
def test_a_half_downloaded_tokenizer_is_named(change, sentence, folder):
    change(folder / "tokenizer.json")
    with pytest.raises(ImplicitPRMError, match=sentence):
        open_tokenizer(PolicyConfig(str(folder)))


def test_a_model_of_another_kind_is_refused_not_given_a_random_head(tmp_path, tokenizer):
    LlamaForSequenceClassification(tiny_model(tokenizer).config).save_pretrained(tmp_path)
    with pytest.raises(ImplicitPRMError, match=r"no weights for lm_head\.weight.*another kind of model"):
        open_model(PolicyConfig(str(tmp_path)))


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/nowhere", "a/b/c"])
def test_a_path_that_is_not_there_is_no_hub_id(name):
    for opens in (open_model, open_tokenizer):
        with pytest.raises(ImplicitPRMError, match="no such folder"):
            opens(PolicyConfig(name))


def test_a_hub_id_that_cannot_be_reached_names_the_local_way():
    for opens in (open_model, open_tokenizer):
        with pytest.raises(ImplicitPRMError, match=r"cannot open the model 'no/model': .* give a local folder instead"):
            opens(PolicyConfig("no/model"))
