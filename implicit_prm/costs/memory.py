"""Peak memory of a training run on one GPU, in bytes, from a model's shape and the way it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from implicit_prm.config import Quantization
from implicit_prm.costs.shapes import Shape
from implicit_prm.rewards.chunked_logprobs import CHUNK_BYTES

Sharding = Literal["none", "ddp", "fsdp2", "zero3"]
# Optimiser states per trained parameter. AdamW keeps two, in the parameter's own precision.
OPTIMISER_STATES = {
    "adamw_torch": 2.0,
    "adamw_torch_fused": 2.0,
    "adamw_bnb_8bit": 0.5,
    "adamw_8bit": 0.5,
    "paged_adamw_8bit": 0.5,
    "sgd": 0.0,
}
# float32 logits, log-softmax, softmax and gradient, and half-precision copies of two of them.
_CHUNK_COPIES = 5
# NF4 with double quantisation: 4 bits per weight, 8 per 64 weights, 32 per 64 x 256 (arXiv 2305.14314, section 3).
_QUANTIZED_BYTES = {"4bit": (4 + 8 / 64 + 32 / (64 * 256)) / 8}
# DeepSpeed's defaults for stage3_max_live_parameters and reduce_bucket_size.
_ZERO3_LIVE, _ZERO3_BUCKET = 10**9, 5 * 10**8


@dataclass(frozen=True)
class Plan:
    """How a model is trained.

    Args:
        weight_bytes: bytes per weight as loaded: 4 or 2.
        autocast: `trainer.bf16` or `trainer.fp16`, computing in half precision.
        checkpointing: gradient checkpointing.
        optimiser: a key of `OPTIMISER_STATES`.
        reference: parameters of the reference, which is run before training and then released; 0 without one.
        sharding: how weights and gradients are distributed over the processes.
        processes: number of GPUs.
        quantization: bitsandbytes quantisation of the frozen backbone below an adapter.
    """

    weight_bytes: int
    autocast: bool
    checkpointing: bool
    optimiser: str
    reference: int
    sharding: Sharding = "none"
    processes: int = 1
    quantization: Quantization | None = None

    @property
    def shards(self) -> int:
        """The number of parts that weights, gradients and optimiser states are split into."""
        return self.processes if self.sharding in ("fsdp2", "zero3") else 1

    @property
    def compute_bytes(self) -> int:
        """Bytes per weight or activation in matrix products."""
        return 2 if self.autocast else self.weight_bytes


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU. The first four are held throughout; the others never all at once.

    Args:
        weights: of the policy.
        gradients: of the trained weights.
        optimiser: the optimiser's states.
        gathered: weights and gradients that sharding gathers for use, or DDP's gradient buckets.
        activations: kept from the forward pass of a piece and its shared prompt for the backward pass.
        layer: one layer's activations: recomputed under checkpointing, or their gradients.
        head: the output head: hidden states, one chunk of logits, the head's gradient in float32.
        copies: half-precision copies of the trained weights that autocast holds during the forward pass.
        step: temporary tensors of the optimiser's step.
        reference: the reference with one piece, before training starts.
    """

    weights: float
    gradients: float
    optimiser: float
    gathered: float
    activations: float
    layer: float
    head: float
    copies: float
    step: float
    reference: float

    @property
    def peak(self) -> float:
        """The largest total at any time."""
        held = self.weights + self.gradients + self.optimiser + self.gathered
        in_a_pass = self.activations + max(self.head, self.layer, self.copies)
        return max(held + max(in_a_pass, self.step), self.reference)


def memory(
    shape: Shape, plan: Plan, saved: int, saved_whole: int, read_tokens: int, chunk_bytes: int = CHUNK_BYTES
) -> Memory:
    """Memory while one piece is trained.

    Args:
        shape: of the model.
        plan: how it is trained.
        saved: bytes that the backbone keeps for the backward pass (`shapes.saved_bytes`).
        saved_whole: the same without gradient checkpointing.
        read_tokens: tokens whose log-probability is computed.
        chunk_bytes: size of one chunk of float32 logits.
    """
    full, sharded = not shape.adapter, plan.sharding in ("fsdp2", "zero3")
    float_masters = plan.sharding == "fsdp2" and plan.autocast
    trained_bytes = 4 if shape.adapter or float_masters or plan.weight_bytes == 4 else 2
    weights = (0 if full else _frozen(shape, plan)) + shape.trained * trained_bytes
    gradients = shape.trained * trained_bytes
    states = shape.trained * trained_bytes * OPTIMISER_STATES[plan.optimiser]
    # PyTorch's foreach AdamW allocates a temporary tensor per gradient; the fused one does not.
    step = shape.trained * trained_bytes if plan.optimiser == "adamw_torch" else 0
    if plan.sharding == "zero3" and plan.autocast:  # half-precision weights and gradients, float32 masters
        weights, gradients = 2 * ((0 if full else shape.base) + shape.trained), 2 * shape.trained
        states = shape.trained * 4 * (OPTIMISER_STATES[plan.optimiser] + 1)

    cast = plan.autocast and plan.weight_bytes == 4 and not sharded
    head_weights = shape.head * ((2 if cast else 0) + (4 if full else 0))
    hidden = read_tokens * shape.width * (plan.weight_bytes + 2 * plan.compute_bytes)
    layer = saved_whole / shape.layers
    reference_pass = hidden + _CHUNK_COPIES * chunk_bytes + 2 * layer
    return Memory(
        weights=weights / plan.shards,
        gradients=gradients / plan.shards,
        optimiser=states / plan.shards,
        gathered=_gathered(shape, plan, full) if sharded else gradients if plan.sharding == "ddp" else 0,
        activations=saved,
        layer=layer,
        head=hidden + head_weights + _CHUNK_COPIES * chunk_bytes,
        # Without checkpointing the autograd graph keeps the copies, and they are counted in `saved`.
        copies=2 * shape.backbone if cast and full and plan.checkpointing else 0,
        step=step / plan.shards,
        reference=_reference_weights(shape, plan) + reference_pass if plan.reference else 0,
    )


def _frozen(shape: Shape, plan: Plan) -> float:
    """The frozen weights below an adapter. Only the backbone is quantised; peft then casts the rest to float32."""
    if plan.quantization is None:
        return shape.base * plan.weight_bytes
    return shape.backbone * _QUANTIZED_BYTES[plan.quantization] + (shape.base - shape.backbone) * 4


def _reference_weights(shape: Shape, plan: Plan) -> float:
    """The reference is not sharded: the policy itself before it is sharded, or another model."""
    if plan.quantization is not None and plan.reference == shape.base:
        return _frozen(shape, plan)
    return plan.reference * plan.weight_bytes


def _gathered(shape: Shape, plan: Plan, full: bool) -> float:
    if plan.sharding == "zero3":
        return plan.compute_bytes * (min(shape.base, _ZERO3_LIVE) + _ZERO3_BUCKET)
    # FSDP2: the head from its forward to its backward pass, the current layer and the next, and the gradients of the
    # head and one layer.
    layer = shape.backbone / shape.layers
    return plan.compute_bytes * (shape.head + 2 * layer + (shape.head + layer if full else 0))
