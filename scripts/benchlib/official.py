"""The official implementation, rewritten in plain torch from its description (arXiv 2412.01981) and its behaviour.

Every response is a row of prompt and response, right-padded to the longest of its batch. The model returns the logits
of all positions, [rows, tokens, vocabulary]; log_softmax makes a second tensor of that size, and one number per token
is gathered from it. The reference runs with the policy every time. DPO encodes both responses of every pair.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from implicit_prm.models.forward import pad_rows

Row = tuple[list[int], list[int]]

SCORING_BATCH = 4
CE_BATCH = 2
DPO_BATCH = 1  # pairs, so two rows


@dataclass(frozen=True)
class Models:
    """The policy and its frozen reference, with the padding id and beta."""

    policy: PreTrainedModel
    reference: PreTrainedModel
    pad_id: int
    beta: float


def token_logprobs(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """[rows, tokens - 1] log-probabilities in nats of each next token, zero outside the response."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    return logprobs.masked_fill(~batch["completion_mask"][:, 1:], 0.0)


def score(models: Models, rows: Sequence[Row], batch_size: int = SCORING_BATCH) -> list[float]:
    """The log-ratio of each response in nats, in dataset order."""
    ratios: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            batch = _padded(models, rows[start : start + batch_size])
            policy = token_logprobs(models.policy, batch)
            ratios += (policy - token_logprobs(models.reference, batch)).sum(-1).tolist()
    return ratios


def ce_step(models: Models, rows: Sequence[Row], labels: Sequence[bool], batch_size: int = CE_BATCH) -> float:
    """Cross-entropy on the labels. Returns the loss; the gradient is left in the policy."""
    total = 0.0
    for start in range(0, len(rows), batch_size):
        piece = slice(start, start + batch_size)
        target = torch.tensor(labels[piece], dtype=torch.float32, device=models.policy.device)
        rewards = _rewards(models, rows[piece])
        loss = F.binary_cross_entropy_with_logits(rewards, target, reduction="sum") / len(rows)
        loss.backward()
        total += loss.item()
    return total


def dpo_step(
    models: Models, rows: Sequence[Row], pairs: Sequence[tuple[int, int]], batch_size: int = DPO_BATCH
) -> float:
    """DPO over `pairs` (correct row, incorrect row). Returns the loss; the gradient is left in the policy."""
    total = 0.0
    for start in range(0, len(pairs), batch_size):
        piece = pairs[start : start + batch_size]
        sides = [rows[place] for side in zip(*piece, strict=True) for place in side]  # all chosen, then all rejected
        chosen, rejected = _rewards(models, sides).chunk(2)
        loss = -F.logsigmoid(chosen - rejected).sum() / len(pairs)
        loss.backward()
        total += loss.item()
    return total


@contextlib.contextmanager
def checkpointing(model: PreTrainedModel) -> Iterator[None]:
    """Gradient checkpointing within the block."""
    model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        model.gradient_checkpointing_disable()


def _rewards(models: Models, rows: Sequence[Row]) -> Tensor:
    batch = _padded(models, rows)
    models.policy.train()
    policy = token_logprobs(models.policy, batch)
    with torch.no_grad():
        reference = token_logprobs(models.reference, batch)
    return models.beta * (policy - reference).sum(-1)


def _padded(models: Models, rows: Sequence[Row]) -> dict[str, Tensor]:
    return {name: tensor.to(models.policy.device) for name, tensor in pad_rows(rows, models.pad_id).items()}
