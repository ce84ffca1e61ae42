"""Token log-probabilities from hidden states, a chunk of tokens at a time.

The logits of a causal LM are a [tokens, vocabulary] tensor, but a log-likelihood needs only one number per token. For
1,000 tokens of Llama 3.1 the logits take half a gigabyte in float32, and log_softmax and its gradient as much again
each. Here only the logits of one chunk exist at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# A chunk's float32 logits take chunk x vocabulary x 4 bytes; 64 MB keeps the matrix product large and the peak small.
CHUNK_BYTES = 64 * 2**20
SUM_ROWS = 8192  # of a half-precision product that are converted to float32 at once


@dataclass(frozen=True)
class LogitTransform:
    """How a model changes the logits after the output head: scaling (Cohere, Granite), then soft-capping (Gemma)."""

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def slope(self, logits: Tensor) -> Tensor | float | None:
        """The derivative with respect to the raw logits, given the transformed ones; None for the identity."""
        if self.softcap is None:
            return None if self.scale == 1.0 else self.scale
        return (logits / self.softcap).square_().neg_().add_(1).mul_(self.scale)


IDENTITY = LogitTransform()


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    transform: LogitTransform = IDENTITY,
    chunk_tokens: int | None = None,
) -> Tensor:
    """log softmax(transform(hidden @ weight.T + bias))[target] of each token, in nats.

    Args:
        hidden: [tokens, width] final hidden states, the input of the output head.
        weight: [vocabulary, width] weight of the output head.
        targets: [tokens] int64, the token whose log-probability is computed.
        bias: [vocabulary] bias of the output head, if it has one.
        transform: the model's scaling and soft-capping of logits.
        chunk_tokens: tokens projected at once; by default as many as fit into `CHUNK_BYTES`.

    Returns:
        [tokens] float32, differentiable in hidden, weight and bias. The logits are computed in the dtype of the inputs,
        or of autocast, as the model does; everything after them is float32.

    Raises:
        ValueError: shapes that do not match.
    """
    if hidden.dim() != 2 or targets.shape != hidden.shape[:1]:
        raise ValueError(f"expected hidden [tokens, width] and targets [tokens], got {hidden.shape}, {targets.shape}")
    if torch.is_autocast_enabled(hidden.device.type):  # which does not reach products with a given output
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    chunk = chunk_tokens or max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    return _ChunkedLogProbs.apply(hidden, weight, bias, targets, transform, chunk, torch.is_grad_enabled())


def naive_token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, transform: LogitTransform = IDENTITY
) -> Tensor:
    """The same from the whole [tokens, vocabulary] tensor: the definition, which the tests compare with."""
    logits = transform(F.linear(hidden, weight, bias).float())
    return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


class _ChunkedLogProbs(torch.autograd.Function):
    """Backward needs d logprob / d logits, which is as large as the logits, so it is recomputed per chunk.

    Two cases need no recomputation. The derivative of the first chunk is kept: it takes no more memory than a chunk
    does anyway, and small inputs are a single chunk. With a frozen head (LoRA), only d logprob / d hidden is needed,
    which is as small as the hidden states, so the forward pass computes it.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, transform, chunk, grad_enabled):
        want_hidden, *want_head = (grad_enabled and needed for needed in ctx.needs_input_grad[:3])
        logprobs = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        slope_hidden = torch.empty_like(hidden) if want_hidden and not any(want_head) else None
        logits, kept = _Logits(weight, bias, transform), None
        for piece in _chunks(hidden, chunk):
            keep = any(want_head) and kept is None
            want_slope = keep or slope_hidden is not None
            logprobs[piece], slope = logits.logprobs(hidden[piece], targets[piece], want_slope)
            if slope_hidden is not None:
                slope_hidden[piece] = slope.to(weight.dtype) @ weight
            elif keep:
                kept = slope.to(hidden.dtype)
                logits.keep()
        ctx.save_for_backward(hidden, weight, bias, targets, slope_hidden, kept)
        ctx.transform, ctx.chunk = transform, chunk
        return logprobs

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, bias, targets, slope_hidden, kept = ctx.saved_tensors
        if slope_hidden is not None:
            return (slope_hidden * grad[:, None]).to(hidden.dtype), *(None,) * 6
        want_hidden, want_weight, want_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if want_hidden else None
        logits, of_weight, of_bias = _Logits(weight, bias, ctx.transform), _SumOfProducts(), _SumOfProducts()
        for piece in _chunks(hidden, ctx.chunk):
            slope, kept = kept, None
            if slope is None:
                slope = logits.logprobs(hidden[piece], targets[piece], True)[1].to(hidden.dtype)
            # `grad` scales whole rows, so it is applied to the smaller factor of each product.
            of_row = grad[piece, None]
            if grad_hidden is not None:
                grad_hidden[piece] = (slope @ weight) * of_row
            if want_weight:
                of_weight.add(slope.T, (hidden[piece] * of_row).to(hidden.dtype))
            if bias is not None and want_bias:
                of_bias.add(slope.T, of_row.to(hidden.dtype))
        return (
            grad_hidden,
            of_weight.total.to(weight.dtype) if of_weight.total is not None else None,
            of_bias.total.squeeze(-1).to(bias.dtype) if of_bias.total is not None else None,
            *(None,) * 4,
        )


def _chunks(hidden: Tensor, chunk: int) -> Iterator[slice]:
    """At least one chunk, which may be empty."""
    return (slice(start, start + chunk) for start in range(0, max(1, hidden.shape[0]), chunk))


class _Logits:
    """The logits of one chunk after another, in the same memory: on a CPU, new memory costs much in page faults.

    Args:
        weight: of the output head.
        bias: of the output head, if it has one.
        transform: the model's scaling and soft-capping of logits.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, transform: LogitTransform) -> None:
        self._weight, self._bias, self._transform = weight, bias, transform
        self._raw: Tensor | None = None  # in the dtype of the weight
        self._float: Tensor | None = None

    def keep(self) -> None:
        """Leave the last chunk's memory to the caller."""
        self._raw = self._float = None

    def logprobs(self, hidden: Tensor, targets: Tensor, want_slope: bool) -> tuple[Tensor, Tensor]:
        """[chunk] log-probabilities and, with `want_slope`, [chunk, vocabulary] d logprob / d raw logits, in float32.

        The derivative is (onehot - softmax) times that of the transform. It is overwritten by the next chunk.
        """
        logits = self._transform(self._logits(hidden))
        found = logits.gather(-1, targets[:, None]).squeeze(-1)
        of_transform = self._transform.slope(logits) if want_slope else None
        largest = logits.amax(-1)
        powers = logits.sub_(largest[:, None]).exp_()
        total = powers.sum(-1)
        logprobs = found - largest - total.log()
        if not want_slope:
            return logprobs, powers
        slope = powers.div_(-total[:, None])
        slope.scatter_add_(-1, targets[:, None], torch.ones_like(found)[:, None])
        return logprobs, slope if of_transform is None else slope.mul_(of_transform)

    def _logits(self, hidden: Tensor) -> Tensor:
        """[chunk, vocabulary] float32 logits before the transform."""
        if self._raw is None or self._float is None:
            self._raw = F.linear(hidden, self._weight, self._bias)
            self._float = self._raw.float()
            return self._float
        raw, logits = self._raw[: len(hidden)], self._float[: len(hidden)]
        if self._bias is None:
            torch.mm(hidden, self._weight.T, out=raw)
        else:
            torch.addmm(self._bias, hidden, self._weight.T, out=raw)
        return logits if raw.dtype == logits.dtype else logits.copy_(raw)


class _SumOfProducts:
    """A float32 sum of matrix products."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, left: Tensor, right: Tensor) -> None:
        """Add left @ right. In half precision by blocks of rows: adding a whole product would convert it at once."""
        if self.total is None:
            self.total = (left @ right).float()
        elif left.dtype == self.total.dtype:
            torch.addmm(self.total, left, right, out=self.total)
        else:
            for start in range(0, len(left), SUM_ROWS):
                rows = slice(start, start + SUM_ROWS)
                self.total[rows] += left[rows] @ right
