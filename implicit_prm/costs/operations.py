"""Memory and floating-point operations of a training run: arithmetic on a model's shape. Bytes and FLOPs throughout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from implicit_prm.config import Quantization
from implicit_prm.costs.shapes import Shape
from implicit_prm.costs.workload import Tokens
from implicit_prm.rewards.chunked_logprobs import CHUNK_BYTES

Sharding = Literal["none", "ddp", "fsdp2", "zero3"]
# Bytes of state per trained parameter and byte of it: AdamW keeps two numbers, in the parameter's own precision.
OPTIMISER_STATES = {
    "adamw_torch": 2.0,
    "adamw_torch_fused": 2.0,
    "adamw_bnb_8bit": 0.5,
    "adamw_8bit": 0.5,
    "paged_adamw_8bit": 0.5,
    "sgd": 0.0,
}
# float32 logits, their transform, softmax and gradient, and the half-precision copies of two of them.
_CHUNK_COPIES = 5
# NF4 with doubly quantised scales: 4 bits, 8 per 64 weights and 32 per 64 x 256 (arXiv 2305.14314, section 3).
_ROUNDED_BYTES = {"4bit": (4 + 8 / 64 + 32 / (64 * 256)) / 8}
# DeepSpeed's defaults: parameters that may be gathered at once, and elements of the bucket that gradients go through.
_ZERO3_LIVE, _ZERO3_BUCKET = 10**9, 5 * 10**8


@dataclass(frozen=True)
class Plan:
    """How a model is trained.

    Args:
        weight_bytes: of one weight as it is opened: 4 or 2.
        autocast: `trainer.bf16` or `fp16`: compute in half precision.
        checkpointing: gradient checkpointing.
        optimiser: a key of `OPTIMISER_STATES`.
        reference: parameters of the model that is asked before training; 0 without a reference. Training holds none.
        quantization: of the frozen backbone below an adapter, by bitsandbytes.
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
        return self.processes if self.sharding in ("fsdp2", "zero3") else 1

    @property
    def compute_bytes(self) -> int:
        return 2 if self.autocast else self.weight_bytes


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU. The first four are held all the time; the others are not all there at once.

    Args:
        gathered: weights and gradients that sharding brings together while they are used; DDP's buckets.
        activations: what the forward pass of a piece, and of its shared prompt, keeps for the backward pass.
        layer: one layer more: recomputed by checkpointing, or the gradients of its activations.
        head: the output head: hidden states that are read, a chunk of logits, the head's gradient in float32.
        copies: the half-precision copies of trained weights that autocast holds during the forward pass.
        step: what the optimiser needs beside its states while it steps.
        asking: the reference with a piece, before training starts.
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
    asking: float

    @property
    def peak(self) -> float:
        held = self.weights + self.gradients + self.optimiser + self.gathered
        in_a_pass = self.activations + max(self.head, self.layer, self.copies)
        return max(held + max(in_a_pass, self.step), self.asking)


def memory(
    shape: Shape, plan: Plan, saved: int, saved_whole: int, read_tokens: int, chunk_bytes: int = CHUNK_BYTES
) -> Memory:
    """The peak of a piece.

    Args:
        saved: bytes that the backbone keeps for the backward pass (`shapes.saved_bytes`).
        saved_whole: the same without checkpointing.
        read_tokens: tokens whose log-probability is read.
        chunk_bytes: float32 logits of one chunk.
    """
    full, sharded = not shape.adapter, plan.sharding in ("fsdp2", "zero3")
    float_masters = plan.sharding == "fsdp2" and plan.autocast
    trained_bytes = 4 if shape.adapter or float_masters or plan.weight_bytes == 4 else 2
    weights = (0 if full else _frozen(shape, plan)) + shape.trained * trained_bytes
    gradients = shape.trained * trained_bytes
    states = shape.trained * trained_bytes * OPTIMISER_STATES[plan.optimiser]
    # PyTorch's list-wise AdamW makes a tensor as large as each gradient; the fused one makes none.
    step = shape.trained * trained_bytes if plan.optimiser == "adamw_torch" else 0
    if plan.sharding == "zero3" and plan.autocast:  # half-precision weights and gradients, float32 masters
        weights, gradients = 2 * ((0 if full else shape.base) + shape.trained), 2 * shape.trained
        states = shape.trained * 4 * (OPTIMISER_STATES[plan.optimiser] + 1)

    cast = plan.autocast and plan.weight_bytes == 4 and not sharded
    head_weights = shape.head * ((2 if cast else 0) + (4 if full else 0))
    hidden = read_tokens * shape.width * (plan.weight_bytes + 2 * plan.compute_bytes)
    layer = saved_whole / shape.layers
    asking = hidden + _CHUNK_COPIES * chunk_bytes + 2 * layer
    return Memory(
        weights=weights / plan.shards,
        gradients=gradients / plan.shards,
        optimiser=states / plan.shards,
        gathered=_gathered(shape, plan, full) if sharded else gradients if plan.sharding == "ddp" else 0,
        activations=saved,
        layer=layer,
        head=hidden + head_weights + _CHUNK_COPIES * chunk_bytes,
        # Without checkpointing the graph keeps the copies, and `saved` has them.
        copies=2 * shape.backbone if cast and full and plan.checkpointing else 0,
        step=step / plan.shards,
        asking=_asked(shape, plan) + asking if plan.reference else 0,
    )


def _frozen(shape: Shape, plan: Plan) -> float:
    """Weights below an adapter. Rounding takes the backbone; the rest is made float32 then (peft)."""
    if plan.quantization is None:
        return shape.base * plan.weight_bytes
    return shape.backbone * _ROUNDED_BYTES[plan.quantization] + (shape.base - shape.backbone) * 4


def _asked(shape: Shape, plan: Plan) -> float:
    """The reference's weights, whole on every GPU: the policy's own before it is sharded, or a model of its size."""
    if plan.quantization is not None and plan.reference == shape.base:
        return _frozen(shape, plan)
    return plan.reference * plan.weight_bytes


def _gathered(shape: Shape, plan: Plan, full: bool) -> float:
    if plan.sharding == "zero3":
        return plan.compute_bytes * (min(shape.base, _ZERO3_LIVE) + _ZERO3_BUCKET)
    # FSDP2: the head from its forward to its backward pass, the layer in use and the next, and the gradients of both.
    layer = shape.backbone / shape.layers
    return plan.compute_bytes * (shape.head + 2 * layer + (shape.head + layer if full else 0))


def forward_flops(shape: Shape, tokens: Tokens) -> tuple[float, float]:
    """One forward pass: the backbone with its attention, and the output head.

    2 FLOPs per weight and token, and 4 x layers x attention width per pair of tokens of which one looks at the other.
    """
    body = 2 * shape.backbone * tokens.padded + 4 * shape.layers * shape.attention_width * tokens.pairs
    return body, 2 * shape.head * tokens.read


def training_flops(shape: Shape, checkpointing: bool, tokens: Tokens) -> float:
    """Everything that is multiplied to train on `tokens` once, without the reference.

    The backward pass costs two forward passes, or one for frozen weights, whose own gradient nobody needs.
    Checkpointing repeats the backbone's forward pass (an upper bound: PyTorch leaves out the last product of each
    layer), and so does the chunked head (an upper bound too: a piece's first chunk is kept). A frozen head forms its
    gradient's slope in the forward pass and repeats nothing.
    """
    body, head = forward_flops(shape, tokens)
    adapted = bool(shape.adapter)
    adapter = 2 * shape.adapter * tokens.padded * (3 + checkpointing)
    return ((2 if adapted else 3) + checkpointing) * body + adapter + (2 if adapted else 4) * head
