"""What all trainers over groups share: which prompts are drawn, and what a loss is divided by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from implicit_prm.models.forward import token_budget
from implicit_prm.training.batches import GroupSampler, collate
from implicit_prm.types import ImplicitPRMError


class GroupTrainer(Trainer):
    """transformers' Trainer whose batches are prompts with all of their responses.

    A loss is a sum over units (responses, pairs, steps), divided by their number in the whole optimiser step, which is
    known before its first backward pass: the gradient depends neither on accumulation nor on the number of processes.
    A subclass counts the `units` of a group and adds its `group_gradients`.

    Args:
        model: the model to train.
        max_tokens: in one forward pass, padding included; by default what suits the device.
        compute_metrics: from what `prediction_step` returns.
        args, processing_class, ...: as for transformers' Trainer. Batch sizes count prompts.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: TrainingArguments,
        max_tokens: int | None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]],
        *,
        processing_class: PreTrainedTokenizerBase,
        **options: Any,
    ) -> None:
        if args.n_gpu > 1:
            raise ImplicitPRMError(
                f"{args.n_gpu} GPUs are visible to one process. Use `accelerate launch -m implicit_prm.cli.train ...` "
                "(or cli.baseline) for all of them, or CUDA_VISIBLE_DEVICES=0 for one"
            )
        args.remove_unused_columns = False  # the columns are our collator's, not the model's arguments
        super().__init__(
            model=model,
            args=args,
            data_collator=collate,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            **options,
        )
        if self.is_fsdp_enabled and not getattr(self.accelerator, "is_fsdp2", False):
            raise ImplicitPRMError("FSDP version 1 is not supported; set fsdp_version: 2 in the accelerate config")
        self.max_tokens = max_tokens or token_budget(args.device)
        # The loss is divided by the units of the whole optimiser step here; transformers must not divide again.
        self.model_accepts_loss_kwargs = True
        self._sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(2, dtype=torch.float64))

    def units(self, group: Any) -> float:
        """How many units the loss sums over a group."""
        raise NotImplementedError

    def group_gradients(self, model: nn.Module, group: Any, scale: float) -> Tensor:
        """Adds the gradients of a group's summed loss times `scale`; returns its detached value times `scale`."""
        raise NotImplementedError

    def group_tokens(self, group: Any) -> int:
        """Tokens of a group that pass through the model."""
        raise NotImplementedError

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupSampler:
        dataset: Any = train_dataset or self.train_dataset
        # One process leaves its last batch short; several must have as many batches as each other.
        multiple = self.args.train_batch_size * self.args.world_size if self.args.world_size > 1 else 1
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return GroupSampler(len(dataset), multiple, seed, self.args.train_sampling_strategy == "random")

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of an optimiser step, and how many loss units they hold over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        units = sum(self.units(group) for batch in batches for group in batch["groups"])
        total = self.accelerator.reduce(torch.tensor(float(units), device=self.args.device), reduction="sum")
        return batches, total

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Gradients of a micro-batch, group by group; the loss over the optimiser step's units in all processes."""
        self._to_training_mode(model)
        # The mean over processes that is taken of gradients is undone, as the count is of all of them.
        scale = self.args.world_size / max(float(num_items_in_batch), 1.0)
        loss = torch.zeros((), device=self.args.device)
        for group in inputs["groups"]:
            loss += self.group_gradients(model, group, scale)
        if self.accelerator.sync_gradients and isinstance(model, DistributedDataParallel):
            _mean_gradients(model)
        return loss

    def _backward(self, total: Tensor) -> None:
        """The backward pass of a part of an optimiser step's loss."""
        scaler = self.accelerator.scaler  # float16
        (total if scaler is None else scaler.scale(total)).backward()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of what was observed since the last training log, over all processes."""
        if "loss" in logs:
            for name in self._counted():
                total, count = self.accelerator.reduce(self._sums[name].to(self.args.device), reduction="sum").tolist()
                if count:
                    logs[name] = total / count
            self._sums.clear()
        super().log(logs, start_time)

    def observe(self, name: str, values: Tensor) -> None:
        """Numbers whose mean is logged under `name`, one of `_counted`."""
        self._sums[name] += torch.tensor([values.sum().item(), values.numel()], dtype=torch.float64)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """6 FLOPs per weight and token of the batch."""
        tokens = sum(self.group_tokens(group) for group in inputs["groups"])
        return 6 * tokens * sum(p.numel() for p in self.accelerator.unwrap_model(self.model).parameters())

    def _counted(self) -> list[str]:
        """Names of what is observed, the same in all processes, whatever each of them has seen."""
        raise NotImplementedError

    def _to_training_mode(self, model: nn.Module) -> None:
        model.train()
        if callable(train := getattr(self.optimizer, "train", None)):  # schedule-free optimisers
            train()


def _mean_gradients(model: nn.Module) -> None:
    """Average gradients over processes, as DDP would: its own hooks wait for one forward and one backward pass."""
    waiting = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:  # this process had no response
                parameter.grad = torch.zeros_like(parameter)
            waiting.append(dist.all_reduce(parameter.grad, async_op=True))
    for work in waiting:
        work.wait()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= dist.get_world_size()
