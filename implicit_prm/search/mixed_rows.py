"""Token-level guidance: several models vote on the next token.

    log p(token) = log p_generator + weight * (log pi_theta - log pi_ref), up to a constant

Related: proxy-tuning (arXiv 2401.08565), DExperts (2105.03023), GenARM (2410.08193). With weight 1 and the reference as
the generator, this samples from pi_theta.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from implicit_prm.rollouts.generation import DecodingRows


class Rows(Protocol):
    """What generation needs of `DecodingRows`, which has the documentation."""

    can_wait: bool

    @property
    def logits(self) -> Tensor: ...
    def keep(self, rows: Tensor) -> None: ...
    def append(self, tokens: Tensor, waiting: Tensor | None = None) -> None: ...


class MixedRows:
    """The same rows in several models, with a weighted sum of their log-probabilities as logits.

    Args:
        parts: rows of each model, and the weight of its log-probabilities.
    """

    def __init__(self, parts: Sequence[tuple[DecodingRows, float]]) -> None:
        self._parts = parts
        self.can_wait = all(rows.can_wait for rows, _ in parts)

    @property
    def logits(self) -> Tensor:
        """[rows, vocabulary] float32. Embeddings may be padded: the tokens that all models have count."""
        size = min(rows.logits.shape[-1] for rows, _ in self._parts)
        weighted = [weight * rows.logits[:, :size].log_softmax(-1) for rows, weight in self._parts]
        return torch.stack(weighted).sum(0)

    def keep(self, rows: Tensor) -> None:
        for part, _ in self._parts:
            part.keep(rows)

    def append(self, tokens: Tensor, waiting: Tensor | None = None) -> None:
        for part, _ in self._parts:
            part.append(tokens, waiting)
