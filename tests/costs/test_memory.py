"""Memory of known shapes, worked by hand."""

from dataclasses import replace

import pytest

from implicit_prm.costs.memory import Plan, memory
from tests.costs.shapes import LLAMA, LORA

FULL = Plan(4, autocast=True, checkpointing=True, optimiser="adamw_torch", reference=LLAMA.base)
N = 8_030_261_248


def held(shape, plan):
    bytes_ = memory(shape, plan, saved=0, saved_whole=0, read_tokens=0)
    return bytes_.weights, bytes_.gradients, bytes_.optimiser


def test_full_fine_tuning_takes_16_bytes_per_parameter():
    assert held(LLAMA, FULL) == (4 * N, 4 * N, 8 * N)


@pytest.mark.parametrize("processes", [2, 8])
def test_sharding_divides_weights_gradients_and_states(processes):
    plan = replace(FULL, sharding="fsdp2", processes=processes)
    assert held(LLAMA, plan) == tuple(part / processes for part in (4 * N, 4 * N, 8 * N))
    # ZeRO-3 holds half-precision weights and gradients, and float32 masters with the two moments.
    assert held(LLAMA, replace(plan, sharding="zero3")) == tuple(part / processes for part in (2 * N, 2 * N, 12 * N))
    # DDP divides nothing and adds gradient buckets.
    ddp = replace(plan, sharding="ddp")
    assert held(LLAMA, ddp) == held(LLAMA, FULL)
    assert memory(LLAMA, ddp, 0, 0, 0).gathered == 4 * N


def test_reference_is_not_sharded():
    for plan in (FULL, replace(FULL, sharding="fsdp2", processes=8)):
        one = memory(LLAMA, plan, 0, 0, 0, chunk_bytes=0)
        assert one.reference == 4 * N
    assert memory(LLAMA, replace(FULL, reference=0), 0, 0, 0).reference == 0
    sharded = memory(LLAMA, replace(FULL, sharding="fsdp2", processes=64), 0, 0, 0)
    assert sharded.peak == sharded.reference  # it can be the peak


def test_half_precision_weights_take_half_but_sharded_masters_do_not():
    half = replace(FULL, weight_bytes=2)
    assert held(LLAMA, half) == (2 * N, 2 * N, 4 * N)
    # FSDP2 with mixed precision keeps trained weights in float32.
    assert held(LLAMA, replace(half, sharding="fsdp2", processes=2)) == (2 * N, 2 * N, 4 * N)


def test_adapter_is_float32_on_frozen_weights():
    plan = replace(FULL, weight_bytes=2)
    a = LORA.adapter
    assert held(LORA, plan) == (2 * N + 4 * a, 4 * a, 8 * a)
    assert memory(LORA, plan, 0, 0, 0).head < memory(LLAMA, plan, 0, 0, 0).head  # a frozen head has no gradient


def test_4_bit_weights_take_half_a_byte_and_embeddings_four():
    plan = replace(FULL, weight_bytes=2, quantization="4bit")
    weights = held(LORA, plan)[0] - 4 * LORA.adapter
    assert weights == pytest.approx(0.516 * LORA.backbone + 4 * (LORA.embedding + LORA.head), rel=1e-3)
    assert memory(LORA, plan, 0, 0, 0, chunk_bytes=0).reference == weights  # the reference uses the same weights


def test_8_bit_states_take_a_quarter_and_sgd_has_none():
    assert held(LLAMA, replace(FULL, optimiser="adamw_bnb_8bit"))[2] == 2 * N
    assert held(LLAMA, replace(FULL, optimiser="sgd"))[2] == 0


def test_peak_is_the_larger_of_a_pass_and_the_optimiser_step():
    held_bytes = sum(held(LLAMA, FULL))
    one = memory(LLAMA, FULL, saved=10**9, saved_whole=32 * 10**9, read_tokens=0)
    assert one.copies == 2 * LLAMA.backbone  # the largest of layer, head and copies here
    assert one.step == 4 * N > 10**9 + one.copies
    assert one.peak == held_bytes + one.step
    many = memory(LLAMA, FULL, saved=40 * 10**9, saved_whole=32 * 10**9, read_tokens=0)
    assert many.peak == held_bytes + 40 * 10**9 + many.copies
    fused = memory(LLAMA, replace(FULL, optimiser="adamw_torch_fused"), 10**9, 0, 0)
    assert fused.peak == held_bytes + 10**9 + fused.copies
