"""What is seen of a run while it trains: the dev metrics, and a log of every number as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import EvalPrediction, TrainerCallback

from implicit_prm.rewards.losses import pairs
from implicit_prm.utils.io import JsonLines, atomic_write

ABSENT = -100  # what transformers pads gathered arrays with


def dev_metrics(prediction: EvalPrediction, beta: float | None = None, outcome_name: str = "sum") -> dict[str, float]:
    """Loss per unit, reward accuracy and margins over pairs, KL, and best-of-N over each prompt's responses.

    `beta` turns rewards back into nats for the KL of the reference from the policy; None where there is no reference.
    `outcome_name` is what best-of-N by the outcome reward is called: that reward's aggregate over steps.
    """
    values, sums = map(torch.as_tensor, prediction.predictions)
    labels = torch.as_tensor(prediction.label_ids)
    present, correct = labels != ABSENT, labels == 1
    group = torch.arange(len(labels))[:, None].expand_as(labels)[present]
    outcome, lowest = values[..., 0], values[..., 1]
    chosen, rejected = pairs(correct[present], group)
    margins = outcome[present][chosen] - outcome[present][rejected]
    metrics = {
        "loss": (sums[:, 0].sum() / sums[:, 1].sum().clamp(min=1e-9)).item(),
        "rewards/chosen": outcome[correct].mean().item(),
        "rewards/rejected": outcome[present & ~correct].mean().item(),
        "rewards/margins": margins.mean().item(),
        "rewards/accuracies": (margins > 0).float().mean().item(),
        "pass_at_1": (correct.sum(-1) / present.sum(-1)).mean().item(),
    }
    if beta is not None:
        metrics["kl"] = -outcome[present].mean().item() / beta
    for name, scores in (("min", lowest), (outcome_name, outcome)):
        scores = scores.masked_fill(~present, -torch.inf)
        best = scores == scores.max(-1, keepdim=True).values  # equals share the pick
        metrics[f"best_of_n/{name}"] = ((best & correct).sum(-1) / best.sum(-1)).mean().item()
    return metrics


class JsonLog(TrainerCallback):
    """Every log of the run as a line of `log.jsonl`, whether or not a tracker is on."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def on_train_begin(self, args, state, control, **_):
        """A resumed run goes on where its checkpoint was: what the interrupted one logged after that is cut off."""
        if not state.is_world_process_zero:
            return
        log = JsonLines(self.path)
        lines = [row for row in log.rows() if row["step"] <= state.global_step] if state.global_step else []
        with atomic_write(self.path) as stream:
            stream.writelines((json.dumps(row) + "\n").encode() for row in lines)

    def on_log(self, args, state, control, logs=None, **_):
        if state.is_world_process_zero and logs:
            JsonLines(self.path).append({"step": state.global_step, **logs})
