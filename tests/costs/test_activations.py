"""Bytes that autograd keeps, against a real forward pass."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from implicit_prm.config import LoraConfig, ModelConfig
from implicit_prm.costs.activations import saved_bytes
from implicit_prm.costs.shapes import open_shape
from implicit_prm.costs.workload import Piece
from implicit_prm.models.shared_prompt import PlainRows, SharedPrompt
from implicit_prm.training.initial_model import with_lora
from tests.costs.test_shapes import LLAMA_31_8B, config_folder


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("lora", [None, LoraConfig(r=2)])
def test_saved_bytes_equal_those_of_a_real_forward_pass(shared, autocast, lora, tiny_folder):
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
    # The real pass also keeps what the head needs: the hidden states that are read, and their targets.
    extra = measured - saved_bytes(meta, piece, dtype, autocast, checkpointing=False)
    assert 0 <= extra < 0.06 * measured


def test_checkpointing_keeps_one_hidden_state_a_layer(tmp_path):
    short = LLAMA_31_8B | {"num_hidden_layers": 3}
    _, model, dtype = open_shape(ModelConfig(config_folder(tmp_path / "llama", short), dtype="bfloat16"))
    kept = saved_bytes(model, Piece(0, 2, 64, 64), dtype, False, checkpointing=True)
    states = 3 * 2 * 64 * 4096 * 2
    assert states < kept < 2.5 * states  # the rest is kept by the final norm, in float32
    # The call leaves the model unchanged: without checkpointing the answer differs, and then it is the first one again.
    assert saved_bytes(model, Piece(0, 2, 64, 64), dtype, False, checkpointing=False) > 10 * kept
    assert saved_bytes(model, Piece(0, 2, 64, 64), dtype, False, checkpointing=True) == kept
