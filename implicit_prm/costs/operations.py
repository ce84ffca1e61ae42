"""Floating-point operations of forward and backward passes. The estimate, the ledger and the benchmarks all use these.

    forward pass    2 FLOPs per backbone weight and token, 2 per output-head weight and token whose logits are formed,
                    and 4 x layers x attention width per pair of tokens that attend to each other
    backward pass   twice the forward pass; once for frozen weights, which get no gradient

Left out: embedding lookups, normalisation, rotary embeddings, the softmax and the optimiser.
"""

from __future__ import annotations

from dataclasses import dataclass

from implicit_prm.costs.shapes import Shape


@dataclass(frozen=True)
class Tokens:
    """The tokens of one pass through a model.

    Args:
        padded: tokens that pass through the backbone, padding included.
        read: tokens whose logits are formed.
        pairs: pairs of tokens that attend to each other.
    """

    padded: float = 0.0
    read: float = 0.0
    pairs: float = 0.0

    @classmethod
    def rows(cls, count: float, width: float, prefix: float = 0, read: float = 0) -> Tokens:
        """`count` causal rows of `width` tokens that also attend to the keys and values of `prefix` earlier tokens."""
        return cls(count * width, read, count * width * (width / 2 + prefix))

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.padded + other.padded, self.read + other.read, self.pairs + other.pairs)

    def __mul__(self, factor: float) -> Tokens:
        return Tokens(self.padded * factor, self.read * factor, self.pairs * factor)


def backbone_flops(shape: Shape, tokens: Tokens) -> float:
    """A forward pass of the backbone, attention included."""
    return 2 * shape.backbone * tokens.padded + 4 * shape.layers * shape.attention_width * tokens.pairs


def head_flops(shape: Shape, read: float) -> float:
    """A forward pass of the output head for `read` tokens."""
    return 2 * shape.head * read


def forward_flops(shape: Shape, tokens: Tokens) -> float:
    """A forward pass of backbone and output head."""
    return backbone_flops(shape, tokens) + head_flops(shape, tokens.read)


def training_flops(shape: Shape, checkpointing: bool, tokens: Tokens) -> float:
    """Forward and backward passes of the policy, with everything that is recomputed; without the reference.

    Gradient checkpointing repeats the backbone's forward pass, and the chunked head repeats its own. Both are upper
    bounds: PyTorch skips the last product of each recomputed layer, and the first chunk of each piece is kept. A frozen
    head computes its gradient in the forward pass and repeats nothing.
    """
    body, head = backbone_flops(shape, tokens), head_flops(shape, tokens.read)
    frozen = bool(shape.adapter)
    adapter = 2 * shape.adapter * tokens.padded * (3 + checkpointing)
    return ((2 if frozen else 3) + checkpointing) * body + adapter + (2 if frozen else 4) * head
