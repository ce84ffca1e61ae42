"""FLOPs and tokens of a variant: the rows it runs, with the formulas of `implicit_prm.costs.operations`.

A backward pass costs twice its forward pass. The optimiser is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from implicit_prm.costs.operations import Tokens, forward_flops, head_flops
from implicit_prm.costs.shapes import Shape

Rows = Sequence[tuple[int, int]]  # (prompt tokens, response tokens) of every response


@dataclass(frozen=True)
class Cost:
    """FLOPs, and tokens that pass through a backbone in forward passes (of policy and reference)."""

    flops: float = 0.0
    tokens: float = 0

    @classmethod
    def forward(cls, shape: Shape, tokens: Tokens) -> Cost:
        """A forward pass."""
        return cls(forward_flops(shape, tokens), tokens.padded)

    @classmethod
    def head(cls, shape: Shape, read: int) -> Cost:
        """The output head alone, for `read` tokens."""
        return cls(head_flops(shape, read))

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.tokens + other.tokens)

    def __mul__(self, passes: int) -> Cost:
        return Cost(self.flops * passes, self.tokens * passes)

    def with_backward(self) -> Cost:
        """The forward pass and its backward pass. Tokens count once."""
        return Cost(self.flops * 3, self.tokens)


def padded(rows: Rows, batch: int, project: str = "all") -> Tokens:
    """Rows of prompt and response in batches, in the given order, padded to the longest of their batch.

    Args:
        rows: token counts of prompt and response.
        batch: rows per batch.
        project: the tokens whose logits are formed: `all`, those of the `response`, or `none`.
    """
    total = Tokens()
    for start in range(0, len(rows), batch):
        piece = rows[start : start + batch]
        width = max(prompt + response for prompt, response in piece)
        read = {"all": width * len(piece), "response": sum(response for _, response in piece), "none": 0}
        total += Tokens.rows(len(piece), width, read=read[project])
    return total


def unpadded(rows: Rows) -> Tokens:
    """Rows of prompt and response without padding, with logits at response tokens only."""
    return sum((Tokens.rows(1, prompt + response, read=response) for prompt, response in rows), Tokens())


def after_prompt(prompt: int, responses: Sequence[int]) -> Tokens:
    """Responses that attend to the keys and values of a prompt that has run already."""
    return sum((Tokens.rows(1, response, prefix=prompt, read=response) for response in responses), Tokens())


def shared(prompt: int, responses: Sequence[int]) -> Tokens:
    """The least work: the prompt once, then every response after it, with logits at response tokens only."""
    return Tokens.rows(1, prompt) + after_prompt(prompt, responses)
