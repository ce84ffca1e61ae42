"""Shapes of public models from their configuration, and what autograd keeps against a real forward pass."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from implicit_prm.config import LoraConfig, ModelConfig
from implicit_prm.costs.shapes import open_shape, saved_bytes
from implicit_prm.costs.workload import Piece
from implicit_prm.models.shared_prompt import PlainRows, SharedPrompt
from implicit_prm.training.initial_model import with_lora
from implicit_prm.types import ImplicitPRMError

# The public config.json of each, without what has no part in its shape.
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


def folder(path, values):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(values))
    return str(path)


def test_llama_by_hand(tmp_path):
    shape, _, dtype = open_shape(ModelConfig(folder(tmp_path / "llama", LLAMA_31_8B), dtype="auto"))
    attention = 4096 * (4096 + 1024 + 1024 + 4096)
    layer = attention + 3 * 4096 * 14336 + 2 * 4096
    assert shape.backbone == 32 * layer + 4096 == 6_979_588_096
    assert shape.head == shape.embedding == 128256 * 4096 == 525_336_576
    assert shape.base == shape.trained == 8_030_261_248
    assert (shape.layers, shape.attention_width, shape.kv_width, shape.tied) == (32, 4096, 1024, False)
    assert dtype == torch.bfloat16


def test_qwen_and_its_adapter_by_hand(tmp_path):
    shape, _, dtype = open_shape(ModelConfig(folder(tmp_path / "qwen", QWEN25_7B), lora=LoraConfig(r=16)))
    assert shape.base == 7_615_616_512
    ends = [(3584, 3584), (3584, 512), (3584, 512), (3584, 3584), (3584, 18944), (3584, 18944), (18944, 3584)]
    assert shape.trained == shape.adapter == 28 * 16 * sum(map(sum, ends)) == 40_370_176
    assert dtype == torch.float32


def test_tied_embeddings_are_held_once(tmp_path):
    shape, _, _ = open_shape(ModelConfig(folder(tmp_path / "m", QWEN25_7B | {"tie_word_embeddings": True})))
    assert shape.tied
    assert shape.base == 7_615_616_512 - shape.head


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("lora", [None, LoraConfig(r=2)])
def test_saved_bytes_are_those_of_a_real_piece(shared, autocast, lora, tiny_folder):
    config = ModelConfig(str(tiny_folder), lora=lora)
    _, meta, dtype = open_shape(config)
    real = AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="sdpa").train()
    if lora is not None:
        real = with_lora(real, lora)
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*real.parameters(), *real.buffers())}
    saved = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    prompt, responses = list(range(1, 21)), [[3] * 90, [4] * 90, [5] * 70]
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), hooks:
        (SharedPrompt if shared else PlainRows)(real, prompt).logprobs(responses)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    piece = Piece(19, 3, 90, 250) if shared else Piece(0, 3, 110, 250)
    # The real one keeps what the head needs as well: the hidden states that are read, and their targets.
    extra = measured - saved_bytes(meta, piece, dtype, autocast, checkpointing=False)
    assert 0 <= extra < 0.06 * measured


def test_checkpointing_keeps_one_hidden_state_a_layer(tmp_path):
    short = LLAMA_31_8B | {"num_hidden_layers": 3}
    _, model, dtype = open_shape(ModelConfig(folder(tmp_path / "llama", short), dtype="bfloat16"))
    kept = saved_bytes(model, Piece(0, 2, 64, 64), dtype, False, checkpointing=True)
    states = 3 * 2 * 64 * 4096 * 2
    assert states < kept < 2.5 * states  # and what the final norm keeps, in float32
    # The model is as it was: the same question without checkpointing has another answer, and again the first one.
    assert saved_bytes(model, Piece(0, 2, 64, 64), dtype, False, checkpointing=False) > 10 * kept
    assert saved_bytes(model, Piece(0, 2, 64, 64), dtype, False, checkpointing=True) == kept


def test_a_model_that_cannot_be_reached_names_the_way_out():
    with pytest.raises(ImplicitPRMError, match=r"no/where.*local folder that holds the model's config.json"):
        open_shape(ModelConfig("no/where"))


def test_a_start_that_is_an_adapter_has_its_bases_shape(tmp_path, tiny_folder):
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    with_lora(base, LoraConfig(r=2)).save_pretrained(tmp_path)
    shape, _, _ = open_shape(ModelConfig(str(tmp_path)))
    assert shape == open_shape(ModelConfig(str(tiny_folder)))[0]


def test_a_mixture_of_experts_is_refused(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    mixture = {"model_type": "mixtral", "num_local_experts": 4, "num_key_value_heads": 2, "vocab_size": 32} | sizes
    with pytest.raises(ImplicitPRMError, match="mixture of experts"):
        open_shape(ModelConfig(folder(tmp_path / "moe", mixture)))
