"""FLOPs by hand, and against PyTorch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from implicit_prm.costs.operations import Tokens, forward_flops, training_flops
from implicit_prm.costs.shapes import shape_of
from implicit_prm.models.forward import completion_logprobs
from tests.conftest import tiny_model
from tests.costs.shapes import LLAMA, LORA


def test_tokens_of_rows_by_hand():
    """Each of 10 x 20 tokens attends to 10 tokens of its own row on average, and to 7 of the prefix."""
    assert Tokens.rows(10, 20, prefix=7, read=150) == Tokens(200, 150, 200 * (10 + 7))
    # A row attends to as many pairs as its two halves, the second after the first.
    assert Tokens.rows(1, 30).pairs == (Tokens.rows(1, 10) + Tokens.rows(1, 20, prefix=10)).pairs


def test_flops_per_token():
    """2n for the forward pass, three times that to train, one more forward pass to recompute: 8n in all."""
    n, h = LLAMA.backbone, LLAMA.head
    tokens = Tokens(padded=1000)
    assert forward_flops(LLAMA, tokens) == 2 * n * 1000
    assert training_flops(LLAMA, True, tokens) == 8 * n * 1000
    assert training_flops(LLAMA, False, tokens) == 6 * n * 1000
    # With an adapter: no gradient of the frozen weights.
    assert training_flops(LORA, True, tokens) == (6 * n + 8 * LORA.adapter) * 1000
    # The head: forward, recomputed forward, two gradients. A frozen head: forward and one gradient.
    assert training_flops(LLAMA, True, Tokens(read=10)) == 8 * h * 10
    assert training_flops(LORA, True, Tokens(read=10)) == 4 * h * 10
    assert forward_flops(LLAMA, Tokens(pairs=7)) == 4 * 32 * 4096 * 7


@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_are_what_pytorch_counts(checkpointing, tokenizer, monkeypatch):
    # One token per chunk, so that the head is recomputed for all tokens but the first.
    monkeypatch.setattr("implicit_prm.rewards.chunked_logprobs.CHUNK_BYTES", 1)
    model = tiny_model(tokenizer, hidden_size=64, intermediate_size=96, attn_implementation="eager").train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = torch.randint(1, len(tokenizer), (3, 50))
    completion = torch.zeros_like(ids, dtype=torch.bool)
    completion[:, 20:] = True
    with FlopCounterMode(display=False) as counter:
        completion_logprobs(model, ids, torch.ones_like(ids), completion).sum().backward()
    shape = shape_of(model)
    tokens = Tokens(ids.numel(), int(completion.sum()), 3 * 50**2)  # eager attention also computes masked pairs
    last = (
        2 * 96 * 64 * shape.layers * ids.numel() if checkpointing else 0
    )  # recomputation skips the last product of a layer
    assert training_flops(shape, checkpointing, tokens) == pytest.approx(counter.get_total_flops() + last, rel=0.01)
