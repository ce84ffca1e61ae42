"""TRL and Liger, set up as an experienced user would. Both are optional: `UnavailableError` says what is missing.

TRL: its DPOTrainer, from the collator to `training_step`, with its default chunked log-probabilities. Only tokenisation
is replaced, so that all variants read the same ids. TRL trains on pairs: the responses are unrolled into all of their
pairs. Outside CUDA it computes logits at every position, prompt included, and logging metrics (entropy, mean logit) in
each step, so its figures on a CPU say nothing about a GPU.

Liger: the fused linear DPO loss on the last hidden states of TRL's rows; and for scoring its fused linear cross-entropy
without reduction, which is a log-probability (Triton kernels, CUDA only).
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from benchlib.official import SCORING_BATCH, Models, Row
from implicit_prm.models.forward import pad_rows

IGNORED = -100


class UnavailableError(Exception):
    """A variant that cannot run on this machine."""


def trl_score(models: Models, batch_size: int = SCORING_BATCH) -> Callable[[Sequence[Row]], list[float]]:
    """Log-ratios by TRL's chunked log-probabilities, as its `precompute_ref_log_probs` computes them."""
    _require("trl")
    from trl.trainer.utils import add_fused_lm_head

    for model in (models.policy, models.reference):
        add_fused_lm_head(model)  # adds an argument to `forward`, without which it is unchanged

    def logprobs(model: Any, batch: dict[str, Tensor], targets: Tensor) -> Tensor:
        return model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=targets, fused_lm_head=True
        ).log_probs.sum(-1)

    return lambda rows: _score(models, rows, batch_size, logprobs)


def liger_score(models: Models, batch_size: int = SCORING_BATCH) -> Callable[[Sequence[Row]], list[float]]:
    """Log-ratios by Liger's fused linear cross-entropy (Triton)."""
    fused = liger_cross_entropy(models.policy.device)

    def logprobs(model: Any, batch: dict[str, Tensor], targets: Tensor) -> Tensor:
        hidden = model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        head = model.get_output_embeddings()
        states, shifted = hidden.last_hidden_state[:, :-1], targets[:, 1:]
        nll = fused(head.weight, states.reshape(-1, states.shape[-1]), shifted.reshape(-1), head.bias)
        return -nll.view(shifted.shape).float().sum(-1)

    return lambda rows: _score(models, rows, batch_size, logprobs)


def liger_cross_entropy(device: torch.device) -> Callable[..., Tensor]:
    """(weight [V, D], hidden [T, D], targets [T], bias) to the [T] cross-entropy, without the [T, V] logits."""
    _require("liger_kernel")
    if device.type != "cuda":
        raise UnavailableError("Liger's fused linear cross-entropy is a Triton kernel and needs CUDA")
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED, reduction="none")


def trl_dpo(
    models: Models,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    pairs: Sequence[tuple[int, int]],
    folder: str,
    *,
    precomputed: bool,
    batch_size: int,
) -> Callable[[], float]:
    """A step of TRL's DPOTrainer over all pairs. Returns the loss; the gradient is left in the policy.

    Args:
        models: policy and reference.
        tokenizer: of both models.
        rows: prompt and response ids.
        pairs: (correct row, incorrect row).
        folder: output folder of the trainer.
        precomputed: use `precompute_ref_log_probs`; its forward passes run here, before any step.
        batch_size: pairs per micro-batch; must divide their number, since TRL weights all micro-batches equally.
    """
    trainer = _dpo_trainer(models, tokenizer, rows, pairs, folder, precomputed, batch_size)
    dataset = [trainer.train_dataset[place] for place in range(len(pairs))]
    batches = [dataset[start : start + batch_size] for start in range(0, len(dataset), batch_size)]
    trainer.current_gradient_accumulation_steps = len(batches)  # set by `train`, which we do not call

    def step() -> float:
        losses = [trainer.training_step(trainer.model, trainer.data_collator(batch)) for batch in batches]
        return torch.stack(losses).sum().item()

    return step


def _dpo_trainer(
    models: Models,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    pairs: Sequence[tuple[int, int]],
    folder: str,
    precomputed: bool,
    batch_size: int,
) -> Any:
    """TRL's DPOTrainer on tokenized pairs."""
    _require("trl")
    from datasets import Dataset, disable_progress_bars
    from trl import DPOConfig, DPOTrainer

    class TokenizedDPOTrainer(DPOTrainer):
        """Takes tokenized rows."""

        def _prepare_dataset(self, dataset, *_, **__):
            return dataset

    disable_progress_bars()
    os.environ.setdefault("TQDM_DISABLE", "1")  # TRL's bar would break our status line
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    arguments = DPOConfig(
        output_dir=folder,
        beta=models.beta,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=len(pairs) // batch_size,
        precompute_ref_log_probs=precomputed,
        max_length=None,
        gradient_checkpointing=False,  # TRL's default is True; a step is faster without
        bf16=False,  # the weights have the chosen dtype already
        use_cpu=models.policy.device.type == "cpu",
        report_to="none",
        disable_tqdm=True,
    )
    examples = [
        {"prompt_ids": rows[right][0], "chosen_ids": rows[right][1], "rejected_ids": rows[wrong][1]}
        for right, wrong in pairs
    ]
    return TokenizedDPOTrainer(
        models.policy,
        models.reference,
        arguments,
        train_dataset=Dataset.from_list(examples),
        processing_class=tokenizer,
    )


def liger_dpo(
    models: Models, rows: Sequence[Row], pairs: Sequence[tuple[int, int]], batch_size: int
) -> Callable[[], float]:
    """A step with Liger's fused linear DPO loss and a live reference. Returns the loss; the gradient is left."""
    _require("liger_kernel")
    _require("triton")
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

    policy, reference = models.policy, models.reference
    # torch.compile of the chunks is faster on a GPU; on a CPU it needs a C++ compiler.
    fused = LigerFusedLinearDPOLoss(beta=models.beta, compute_nll_loss=False, compiled=policy.device.type == "cuda")
    head, reference_head = policy.get_output_embeddings(), reference.get_output_embeddings()

    def hidden(model: Any, batch: dict[str, Tensor]) -> Tensor:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return model.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1]

    def step() -> float:
        policy.train()
        total = 0.0
        for start in range(0, len(pairs), batch_size):
            piece = pairs[start : start + batch_size]
            batch, targets = _batch(models, [rows[place] for side in zip(*piece, strict=True) for place in side])
            with torch.no_grad():
                reference_hidden = hidden(reference, batch)
            loss = fused(
                head.weight,
                hidden(policy, batch),
                targets[:, 1:],
                ref_input=reference_hidden,
                ref_weight=reference_head.weight,
            )[0]
            loss = loss * len(piece) / len(pairs)
            loss.backward()
            total += loss.item()
        return total

    return step


def divisor(count: int, limit: int) -> int:
    """The largest divisor of `count` up to `limit`."""
    return next(size for size in range(min(limit, count), 0, -1) if count % size == 0)


def _score(models: Models, rows: Sequence[Row], batch_size: int, logprobs: Callable[..., Tensor]) -> list[float]:
    ratios: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            batch, targets = _batch(models, rows[start : start + batch_size])
            both = [logprobs(model, batch, targets) for model in (models.policy, models.reference)]
            ratios += (both[0] - both[1]).tolist()
    return ratios


def _batch(models: Models, rows: Sequence[Row]) -> tuple[dict[str, Tensor], Tensor]:
    batch = {name: tensor.to(models.policy.device) for name, tensor in pad_rows(rows, models.pad_id).items()}
    return batch, batch["input_ids"].masked_fill(~batch["completion_mask"], IGNORED)


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UnavailableError(f"{package} is not installed")
