"""A FLOP model of a decoder, for two questions: what should a variant cost, and what would the least work cost?

A forward pass costs 2 FLOPs per weight and token, with the output head counted only where it projects, and causal
attention 2 x layers x width x T^2 for a row of T tokens. A backward pass costs twice its forward. Norms, rotary
embeddings, the softmax and the optimiser are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

Rows = Sequence[tuple[int, int]]  # (prompt tokens, response tokens) of every response


@dataclass(frozen=True)
class Cost:
    """FLOPs of a variant, and the token positions it pushes through a backbone (forward passes of both models)."""

    flops: float = 0.0
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.tokens + other.tokens)

    def __mul__(self, passes: int) -> Cost:
        return Cost(self.flops * passes, self.tokens * passes)

    def with_backward(self) -> Cost:
        """A forward pass and its backward pass, which costs twice as much. The tokens count once."""
        return Cost(self.flops * 3, self.tokens)


@dataclass(frozen=True)
class Decoder:
    """weights: of the backbone's matrices; head: of the output head; attention: layers x width of all query heads."""

    weights: int
    head: int
    attention: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Decoder:
        config = model.config.get_text_config()
        head = model.get_output_embeddings().weight
        embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        skipped = embeddings | {id(head)}
        weights = sum(p.numel() for p in model.parameters() if p.dim() >= 2 and id(p) not in skipped)
        heads = config.num_attention_heads
        width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        return cls(weights, head.numel(), config.num_hidden_layers * width)

    def rows(self, tokens: Sequence[int], projected: int) -> Cost:
        """Forward pass of rows on their own; `projected` positions go through the head."""
        body = sum(2 * self.weights * t + 2 * self.attention * t * t for t in tokens)
        return Cost(body, sum(tokens)) + self.heads(projected)

    def padded(self, rows: Rows, batch: int, project: str = "all") -> Cost:
        """Forward pass of `rows`, prompt and response each, in batches in the order given, padded to the longest.

        project: `all` positions, those of the `response` only, or `none` (the backbone alone).
        """
        total = Cost()
        for start in range(0, len(rows), batch):
            piece = rows[start : start + batch]
            width = max(prompt + response for prompt, response in piece)
            projected = {"all": width * len(piece), "response": sum(response for _, response in piece), "none": 0}
            total += self.rows([width] * len(piece), projected[project])
        return total

    def heads(self, projected: int) -> Cost:
        """The output head alone."""
        return Cost(2 * self.head * projected, 0)

    def unpadded(self, rows: Rows) -> Cost:
        """Forward pass of rows on their own without padding, the head at response tokens only."""
        return self.rows([prompt + response for prompt, response in rows], sum(response for _, response in rows))

    def shared(self, prompt: int, responses: Sequence[int]) -> Cost:
        """The least work: the prompt once, every response against it, the head at response tokens only."""
        return self.rows([prompt], 0) + self.behind(prompt, responses)

    def behind(self, prompt: int, responses: Sequence[int]) -> Cost:
        """The responses' part of it: their tokens, which read the prompt's keys and values."""
        total = Cost()
        for response in responses:
            attention = 4 * self.attention * prompt * response + 2 * self.attention * response * response
            total += Cost(2 * (self.weights + self.head) * response + attention, response)
        return total
