"""Memory and FLOPs of known shapes, worked by hand, and the FLOPs against PyTorch's own counter."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from implicit_prm.costs.operations import Plan, forward_flops, memory, training_flops
from implicit_prm.costs.shapes import Shape
from implicit_prm.costs.workload import Tokens
from implicit_prm.models.forward import completion_logprobs
from tests.conftest import tiny_model

LLAMA = Shape(6_979_588_096, 525_336_576, 525_336_576, 0, False, 32, 4096, 4096, 1024)
LORA = replace(LLAMA, adapter=41_943_040)
FULL = Plan(4, autocast=True, checkpointing=True, optimiser="adamw_torch", reference=LLAMA.base)
N = 8_030_261_248


def held(shape, plan):
    one = memory(shape, plan, saved=0, saved_whole=0, read_tokens=0)
    return one.weights, one.gradients, one.optimiser


def test_full_fine_tuning_on_one_gpu_is_16_bytes_a_parameter_and_8_more_in_float32():
    assert held(LLAMA, FULL) == (4 * N, 4 * N, 8 * N)


@pytest.mark.parametrize("processes", [2, 8])
def test_sharding_divides_what_is_held(processes):
    plan = replace(FULL, sharding="fsdp2", processes=processes)
    assert held(LLAMA, plan) == tuple(part / processes for part in (4 * N, 4 * N, 8 * N))
    # ZeRO-3 holds half-precision weights and gradients, and float32 masters with the two moments.
    assert held(LLAMA, replace(plan, sharding="zero3")) == tuple(part / processes for part in (2 * N, 2 * N, 12 * N))
    # DDP divides nothing and adds buckets.
    ddp = replace(plan, sharding="ddp")
    assert held(LLAMA, ddp) == held(LLAMA, FULL)
    assert memory(LLAMA, ddp, 0, 0, 0).gathered == 4 * N


def test_the_reference_is_asked_whole_before_training():
    for plan in (FULL, replace(FULL, sharding="fsdp2", processes=8)):
        one = memory(LLAMA, plan, 0, 0, 0, chunk_bytes=0)
        assert one.asking == 4 * N
    assert memory(LLAMA, replace(FULL, reference=0), 0, 0, 0).asking == 0
    sharded = memory(LLAMA, replace(FULL, sharding="fsdp2", processes=64), 0, 0, 0)
    assert sharded.peak == sharded.asking  # and it can be the peak


def test_half_precision_weights_halve_all_of_it_but_not_sharded_masters():
    half = replace(FULL, weight_bytes=2)
    assert held(LLAMA, half) == (2 * N, 2 * N, 4 * N)
    # FSDP2 with mixed precision makes what is trained float32.
    assert held(LLAMA, replace(half, sharding="fsdp2", processes=2)) == (2 * N, 2 * N, 4 * N)


def test_an_adapter_is_float32_on_frozen_weights():
    plan = replace(FULL, weight_bytes=2)
    a = LORA.adapter
    assert held(LORA, plan) == (2 * N + 4 * a, 4 * a, 8 * a)
    assert memory(LORA, plan, 0, 0, 0).head < memory(LLAMA, plan, 0, 0, 0).head  # no gradient of the head


def test_rounded_weights_take_half_a_byte_and_the_embeddings_four():
    plan = replace(FULL, weight_bytes=2, quantization="4bit")
    weights = held(LORA, plan)[0] - 4 * LORA.adapter
    assert weights == pytest.approx(0.516 * LORA.backbone + 4 * (LORA.embedding + LORA.head), rel=1e-3)
    assert memory(LORA, plan, 0, 0, 0, chunk_bytes=0).asking == weights  # the reference is the same weights


def test_8_bit_states_take_a_quarter_and_sgd_none():
    assert held(LLAMA, replace(FULL, optimiser="adamw_bnb_8bit"))[2] == 2 * N
    assert held(LLAMA, replace(FULL, optimiser="sgd"))[2] == 0


def test_the_peak_is_the_larger_of_a_pass_and_the_optimisers_step():
    always = sum(held(LLAMA, FULL))
    one = memory(LLAMA, FULL, saved=10**9, saved_whole=32 * 10**9, read_tokens=0)
    assert one.copies == 2 * LLAMA.backbone  # autocast's, and the largest of layer, head and copies here
    assert one.step == 4 * N > 10**9 + one.copies
    assert one.peak == always + one.step
    many = memory(LLAMA, FULL, saved=40 * 10**9, saved_whole=32 * 10**9, read_tokens=0)
    assert many.peak == always + 40 * 10**9 + many.copies
    fused = memory(LLAMA, replace(FULL, optimiser="adamw_torch_fused"), 10**9, 0, 0)
    assert fused.peak == always + 10**9 + fused.copies


def test_flops_per_token():
    """2n forward, three of them to train, one more to recompute: 8n for Llama's 6.98e9."""
    n, h = LLAMA.backbone, LLAMA.head
    tokens = Tokens(padded=1000)
    assert forward_flops(LLAMA, tokens) == (2 * n * 1000, 0)
    assert training_flops(LLAMA, True, tokens) == 8 * n * 1000
    assert training_flops(LLAMA, False, tokens) == 6 * n * 1000
    # An adapter: no gradient of the frozen weights.
    assert training_flops(LORA, True, tokens) == (6 * n + 8 * LORA.adapter) * 1000
    # The head: forward, recomputed, two gradients; a frozen one: forward, and the slope at once.
    # Attention: 4 x layers x width per pair.
    assert training_flops(LLAMA, True, Tokens(read=10)) == 8 * h * 10
    assert training_flops(LORA, True, Tokens(read=10)) == 4 * h * 10
    assert forward_flops(LLAMA, Tokens(pairs=7)) == (4 * 32 * 4096 * 7, 0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_are_what_pytorch_counts(checkpointing, tokenizer, monkeypatch):
    monkeypatch.setattr(
        "implicit_prm.rewards.chunked_logprobs.CHUNK_BYTES", 1
    )  # all chunks but a token's are computed again
    model = tiny_model(tokenizer, hidden_size=64, intermediate_size=96, attn_implementation="eager").train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = torch.randint(1, len(tokenizer), (3, 50))
    completion = torch.zeros_like(ids, dtype=torch.bool)
    completion[:, 20:] = True
    with FlopCounterMode(display=False) as counter:
        completion_logprobs(model, ids, torch.ones_like(ids), completion).sum().backward()
    head, embedding = model.lm_head.weight, model.get_input_embeddings().weight
    backbone = sum(p.numel() for p in model.parameters()) - head.numel() - embedding.numel()
    shape = Shape(backbone, embedding.numel(), head.numel(), 0, False, 2, 64, 64, 64)
    tokens = Tokens(ids.numel(), int(completion.sum()), 3 * 50**2)  # eager attention multiplies what it masks, too
    last = 2 * 96 * 64 * shape.layers * ids.numel() if checkpointing else 0  # recomputation stops before it
    assert training_flops(shape, checkpointing, tokens) == pytest.approx(counter.get_total_flops() + last, rel=0.01)
