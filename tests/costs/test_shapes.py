"""Shapes of public models from their configuration."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from implicit_prm.config import LoraConfig, ModelConfig
from implicit_prm.costs.shapes import open_shape, shape_of
from implicit_prm.training.initial_model import with_lora
from implicit_prm.types import ImplicitPRMError

# The public config.json of each, reduced to the keys that determine the shape.
LLAMA_31_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
    "dtype": "bfloat16",
}
QWEN25_7B = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "max_position_embeddings": 32768,
}


def config_folder(path, values):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(values))
    return str(path)


def test_llama_by_hand(tmp_path):
    shape, _, dtype = open_shape(ModelConfig(config_folder(tmp_path / "llama", LLAMA_31_8B), dtype="auto"))
    attention = 4096 * (4096 + 1024 + 1024 + 4096)
    layer = attention + 3 * 4096 * 14336 + 2 * 4096
    assert shape.backbone == 32 * layer + 4096 == 6_979_588_096
    assert shape.head == shape.embedding == 128256 * 4096 == 525_336_576
    assert shape.base == shape.trained == 8_030_261_248
    assert (shape.layers, shape.attention_width, shape.kv_width, shape.tied) == (32, 4096, 1024, False)
    assert dtype == torch.bfloat16


def test_qwen_and_its_adapter_by_hand(tmp_path):
    shape, _, dtype = open_shape(ModelConfig(config_folder(tmp_path / "qwen", QWEN25_7B), lora=LoraConfig(r=16)))
    assert shape.base == 7_615_616_512
    ends = [(3584, 3584), (3584, 512), (3584, 512), (3584, 3584), (3584, 18944), (3584, 18944), (18944, 3584)]
    assert shape.trained == shape.adapter == 28 * 16 * sum(map(sum, ends)) == 40_370_176
    assert dtype == torch.float32


def test_tied_embeddings_are_held_once(tmp_path):
    shape, _, _ = open_shape(ModelConfig(config_folder(tmp_path / "m", QWEN25_7B | {"tie_word_embeddings": True})))
    assert shape.tied
    assert shape.base == 7_615_616_512 - shape.head


def test_unreachable_model_is_named():
    with pytest.raises(ImplicitPRMError, match=r"no/where"):
        open_shape(ModelConfig("no/where"))


def test_adapter_to_start_from_has_the_shape_of_its_base(tmp_path, tiny_folder):
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    with_lora(base, LoraConfig(r=2)).save_pretrained(tmp_path)
    shape, _, _ = open_shape(ModelConfig(str(tmp_path)))
    assert shape == open_shape(ModelConfig(str(tiny_folder)))[0]


def test_mixture_of_experts_is_refused(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    mixture = {"model_type": "mixtral", "num_local_experts": 4, "num_key_value_heads": 2, "vocab_size": 32} | sizes
    with pytest.raises(ImplicitPRMError, match="mixture of experts"):
        open_shape(ModelConfig(config_folder(tmp_path / "moe", mixture)))


def test_shape_of_an_open_model(tiny_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert shape_of(model) == open_shape(ModelConfig(str(tiny_folder)))[0]
    assert shape_of(model).base == sum(parameter.numel() for parameter in model.parameters())
