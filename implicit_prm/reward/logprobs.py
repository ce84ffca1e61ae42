"""Hidden states to token log-probabilities, a chunk of tokens at a time.

A causal LM's logits are a [tokens, vocabulary] tensor of which a log-likelihood needs one number per token: for 1,000
tokens of Llama-3.1 that tensor alone is half a gigabyte in float32, and log_softmax and its gradient are two more.
Here it exists for one chunk only, in the forward pass and again, recomputed, in the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# A chunk's float32 logits take chunk x vocabulary x 4 bytes; 64 MB keeps the matrix product large and the peak small.
CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class LogitTransform:
    """What a model does to its logits after the head: first scaling (Cohere, Granite), then soft-capping (Gemma)."""

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


IDENTITY = LogitTransform()


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    transform: LogitTransform = IDENTITY,
    chunk_tokens: int | None = None,
) -> Tensor:
    """log softmax(transform(hidden @ weight.T + bias))[target], one number per token, in nats.

    Args:
        hidden: [tokens, width] final hidden states, as the output head receives them.
        weight: [vocabulary, width] weight of the output head.
        targets: [tokens] int64, the token whose log-probability is wanted.
        bias: [vocabulary], where the head has one.
        transform: the model's own scaling and soft-capping of logits.
        chunk_tokens: tokens projected at once; by default as many as fit `CHUNK_BYTES`.

    Returns:
        [tokens] float32, differentiable in hidden, weight and bias. Logits are formed in the input's dtype, as the
        model itself forms them, and everything after that is float32.
    """
    if hidden.dim() != 2 or targets.shape != hidden.shape[:1]:
        raise ValueError(f"expected hidden [tokens, width] and targets [tokens], got {hidden.shape}, {targets.shape}")
    chunk = chunk_tokens or max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    return _ChunkedLogProbs.apply(hidden, weight, bias, targets, transform, chunk)


def naive_token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, transform: LogitTransform = IDENTITY
) -> Tensor:
    """The same by way of the whole [tokens, vocabulary] tensor: the definition that the tests compare with."""
    logits = transform(F.linear(hidden, weight, bias).float())
    return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


class _ChunkedLogProbs(torch.autograd.Function):
    """Chunks are recomputed in the backward pass: one extra head product buys a peak that ignores the vocabulary."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, transform, chunk):
        logprobs = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], chunk):
            piece = slice(start, start + chunk)
            logits = transform(F.linear(hidden[piece], weight, bias).float())
            logprobs[piece] = logits.gather(-1, targets[piece, None]).squeeze(-1) - logits.logsumexp(-1)
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.transform, ctx.chunk = transform, chunk
        return logprobs

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, bias, targets = ctx.saved_tensors
        want_hidden, want_weight, want_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if want_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if want_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and want_bias else None
        for start in range(0, hidden.shape[0], ctx.chunk):
            piece = slice(start, start + ctx.chunk)
            grad_logits = _grad_logits(hidden[piece], weight, bias, targets[piece], ctx.transform, grad[piece])
            in_dtype = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[piece] = in_dtype @ weight
            if grad_weight is not None:
                grad_weight += in_dtype.T @ hidden[piece]
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return (
            grad_hidden,
            grad_weight.to(weight.dtype) if grad_weight is not None else None,
            grad_bias.to(bias.dtype) if grad_bias is not None else None,
            *(None,) * 3,
        )


def _grad_logits(hidden, weight, bias, targets, transform: LogitTransform, grad: Tensor) -> Tensor:
    """[chunk, vocabulary] float32 gradient at the raw logits: (onehot - softmax) times the transform's slope."""
    raw = F.linear(hidden, weight, bias).float()
    logits = transform(raw)
    grad_logits = logits.softmax(-1).neg_()
    grad_logits.scatter_add_(-1, targets[:, None], torch.ones_like(targets, dtype=torch.float32)[:, None])
    grad_logits *= grad[:, None]
    if transform.softcap is not None:
        grad_logits *= 1 - (logits / transform.softcap).square()
    if transform.scale != 1.0:
        grad_logits *= transform.scale
    return grad_logits
