"""What is measured during training: the dev metrics, and a log of every number as JSON lines.

Metrics of rewards, on training batches and, with the prefix `eval_`, on the dev set:

* `rewards/chosen`, `rewards/rejected`: mean reward of correct and of incorrect responses.
* `rewards/margins`: mean difference over all correct-incorrect pairs of a prompt.
* `rewards/accuracies`: share of those pairs whose correct response has the higher reward. A tie, up to rounding, counts
  one half, so it is 0.5 before the first step.
* With `loss.batch_unit=response` a training batch has few such pairs: there `rewards/margins` is the difference of the
  means, as in TRL's KTOTrainer, and `rewards/accuracies` is left out.
* `forward_kl`: mean of -log[pi_theta(y) / pi_ref(y)] in nats per response, an estimate of KL(pi_ref || pi_theta) if the
  reference sampled the responses. This is not the `kl` of TRL's KTOTrainer, which is `kto/baseline` here.
* `kto/baseline`: what KTO subtracts from the rewards. In its unpaired form it is beta * max(0, KL(pi_theta || pi_ref)),
  estimated on responses to other prompts.
* `pass_at_1`: mean share of correct responses to a prompt. Dev set only.
* `best_of_n/min`, `best_of_n/sum`: share of prompts where the response with the highest lowest step reward, or with the
  highest reward, is correct. Equals share the pick. Dev set only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments

from implicit_prm.rewards.losses import pairs
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.io import JsonLines, atomic_write, to_json

ABSENT = -100  # transformers pads gathered arrays with it
# Log-ratios that differ by less are equal but for the rounding of a response's log-probability in float32.
TIE_NATS = 1e-3
# Keys of an evaluation that are not from `compute_metrics`.
_SPEED = ("runtime", "samples_per_second", "steps_per_second")


def pair_accuracy(margins: Tensor, beta: float | None = None) -> Tensor:
    """[P] 1 for each pair whose correct response has the higher reward, 0.5 for a tie, else 0.

    Args:
        margins: [P] reward of the correct response minus that of the incorrect one.
        beta: of rewards that are beta x nats, whose ties are up to rounding (`TIE_NATS`); None for exact ties.
    """
    tie = 0.0 if beta is None else beta * TIE_NATS
    return torch.where(margins.abs() <= tie, 0.5, (margins > 0).float())


def final_evaluation(trainer: Trainer, metric: str = "eval_loss", same_dev_set: bool = True) -> dict[str, float]:
    """Dev metrics of the trained model: those that training has computed at its step, or else of a new evaluation.

    Args:
        trainer: after `train`.
        metric: that every evaluation logs.
        same_dev_set: the run that is resumed had the same dev set.
    """
    state = trainer.state
    step = state.best_global_step if trainer.args.load_best_model_at_end else state.global_step
    took_steps = state.global_step > trainer._initial_global_step
    for row in reversed(state.log_history if took_steps or same_dev_set else []):
        if row["step"] == step and metric in row:
            return {name: value for name, value in row.items() if name.startswith("eval_")}
    return trainer.evaluate()


def dev_metrics(
    prediction: EvalPrediction, beta: float | None = None, has_reference: bool = True, outcome_name: str = "sum"
) -> dict[str, float]:
    """Loss per unit, rewards, KL and best-of-N on the dev set. A metric without any value is NaN.

    Args:
        prediction: predictions are [G, K, 2] outcome reward and lowest step reward of each response, and [G, 2] loss
            sum and number of units of each group; label_ids are [G, K]. Absent responses are `ABSENT`.
        beta: of rewards that are beta x nats; None for an explicit reward model.
        has_reference: whether those are log-ratios, which have a KL.
        outcome_name: the name of best-of-N by the outcome reward: that reward's aggregate over steps.
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
        "rewards/accuracies": pair_accuracy(margins, beta).mean().item(),
        "pass_at_1": (correct.sum(-1) / present.sum(-1)).mean().item(),
    }
    if beta is not None and has_reference:
        metrics["forward_kl"] = -outcome[present].mean().item() / beta
    for name, scores in (("min", lowest), (outcome_name, outcome)):
        scores = scores.masked_fill(~present, -torch.inf)
        best = scores == scores.max(-1, keepdim=True).values  # equals share the pick
        metrics[f"best_of_n/{name}"] = ((best & correct).sum(-1) / best.sum(-1)).mean().item()
    return metrics


def metric_names(compute_metrics: Callable[[EvalPrediction], dict[str, float]]) -> list[str]:
    """Names of the metrics that an evaluation gives, without their prefix."""
    predictions: Any = np.zeros((1, 2, 2)), np.ones((1, 2))  # of a group with two responses
    return [*compute_metrics(EvalPrediction(predictions, np.array([[1, 0]]))), *_SPEED]


def check_best_metric(arguments: TrainingArguments, names: Iterable[str]) -> None:
    """Refuse a `metric_for_best_model` that no evaluation gives, which transformers notices at the first evaluation.

    Raises:
        ImplicitPRMError: names those that can be chosen.
    """
    chosen = arguments.metric_for_best_model
    if chosen is not None and chosen.removeprefix("eval_") not in names:
        raise ImplicitPRMError(f"metric_for_best_model={chosen}: unknown; choose one of {', '.join(names)}")


class JsonLog(TrainerCallback):
    """Writes every log of a run as a line of JSON, whether or not a tracker is used."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def on_train_begin(self, args, state, control, **_):
        """Start the file; a resumed run keeps the lines that were written before its checkpoint was."""
        if not state.is_world_process_zero:
            return
        # One per entry of the history: a run may be killed after its last checkpoint, which the final metrics follow.
        lines = list(JsonLines(self.path).rows())[: len(state.log_history)]
        with atomic_write(self.path) as stream:
            stream.writelines((to_json(row) + "\n").encode() for row in lines)

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **_):
        if state.is_world_process_zero and logs:
            JsonLines(self.path).append({"step": state.global_step, **logs})
