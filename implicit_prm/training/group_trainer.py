"""What the trainers share: how groups are drawn, what a loss is divided by, and what is logged."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from implicit_prm.models.checkpoint import BaselineMetadata, CheckpointMetadata
from implicit_prm.models.forward import token_budget
from implicit_prm.models.shared_prompt import pieces
from implicit_prm.training.arguments import without_token
from implicit_prm.training.batches import GroupSampler, collate
from implicit_prm.training.checkpoint_errors import clear_load_errors, clear_save_errors, kept
from implicit_prm.training.finished_run import FinishedRunMixin
from implicit_prm.training.metrics import JsonLog, check_best_metric, metric_names
from implicit_prm.training.progress import LogProgress
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.io import set_weight_permissions, write_json
from implicit_prm.utils.progress import shows_bars


class GroupTrainer(FinishedRunMixin, Trainer):
    """transformers' Trainer whose batches are prompts with all of their responses, or single responses.

    A loss is a sum over units (responses, pairs, steps), divided by their number in the whole optimiser step, which is
    known before its first backward pass: the gradient depends neither on accumulation nor on the number of processes.
    A subclass counts the `units` of a group and adds its `group_gradients`. Every log is also a line of `log.jsonl` in
    the output folder. A run stops at the first loss or gradient norm that is not finite, and no model is saved whose
    loss is not.

    Args:
        model: the model to train.
        args: as for transformers' Trainer. Batch sizes count the items of the dataset: prompts, or single responses.
        metadata: saved with every checkpoint.
        max_tokens: in one forward pass, padding included; by default what suits the device.
        compute_metrics: as for transformers' Trainer, from what `prediction_step` returns.
        processing_class: the tokenizer, which is saved with the model.
        data_collator: makes {"groups": [...]} of a micro-batch's items.
        callbacks: as for transformers' Trainer.
        options: other arguments of transformers' Trainer.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: TrainingArguments,
        metadata: CheckpointMetadata | BaselineMetadata,
        max_tokens: int | None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]],
        *,
        processing_class: PreTrainedTokenizerBase,
        data_collator: Callable[[Sequence[Any]], dict[str, Any]] = collate,
        callbacks: Sequence[TrainerCallback] = (),
        **options: Any,
    ) -> None:
        if args.n_gpu > 1:
            raise ImplicitPRMError(
                f"{args.n_gpu} GPUs are visible to one process. Use `accelerate launch -m implicit_prm.cli.train ...` "
                "(or cli.baseline) for all of them, or CUDA_VISIBLE_DEVICES=0 for one"
            )
        check_best_metric(args, metric_names(compute_metrics))
        args.remove_unused_columns = False  # the collator takes the columns, not the model
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=[JsonLog(Path(str(args.output_dir)) / "log.jsonl"), *callbacks],
            **options,
        )
        if not shows_bars() and self.pop_callback(ProgressCallback):
            self.add_callback(LogProgress())
        if self.is_fsdp_enabled and not getattr(self.accelerator, "is_fsdp2", False):
            raise ImplicitPRMError("FSDP version 1 is not supported; set fsdp_version: 2 in the accelerate config")
        self.metadata = metadata
        self.max_tokens = max_tokens or token_budget(args.device)
        # `training_step` divides by the units of the whole optimiser step; transformers must not divide again.
        self.model_accepts_loss_kwargs = True
        self._step_loss = torch.zeros((), device=args.device)
        self._checkpoint: str | None = None  # that training has resumed from
        self.dev_fingerprint: str | None = None  # of the dev set
        self.same_dev_set = True  # as before the run was resumed, as far as its checkpoint says
        self._log_is_whole = False  # a resumed run knows the losses before its checkpoint, too
        self._sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(2, dtype=torch.float64))

    def units(self, group: Any) -> float:
        """Number of terms that a group adds to the loss."""
        raise NotImplementedError

    def group_gradients(self, model: nn.Module, group: Any, scale: float) -> Tensor:
        """Add the gradients of a group's summed loss times `scale`; return its detached value times `scale`."""
        raise NotImplementedError

    def gradients(self, model: nn.Module, groups: Sequence[Any], scale: float) -> Tensor:
        """Add the gradients of a micro-batch's summed loss times `scale`; return its detached value times `scale`."""
        loss = torch.zeros((), device=self.args.device)
        for group in groups:
            loss += self.group_gradients(model, group, scale)
        return loss

    def group_tokens(self, group: Any) -> int:
        """Tokens of a group that pass through the model."""
        raise NotImplementedError

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupSampler:
        dataset: Any = train_dataset or self.train_dataset
        # One process leaves its last batch short; several must have as many batches as each other.
        processes = self.args.world_size
        return GroupSampler(
            len(dataset),
            self.args.train_batch_size * processes if processes > 1 else 1,
            self.args.seed if self.args.data_seed is None else self.args.data_seed,
            self.args.train_sampling_strategy == "random",
            processes=processes,
            accumulation=self.args.gradient_accumulation_steps,
            tokens=dataset.tokens() if processes > 1 else (),
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of an optimiser step, and their number of loss units over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        units = sum(self.units(group) for batch in batches for group in batch["groups"])
        total = self.accelerator.reduce(torch.tensor(float(units), device=self.args.device), reduction="sum")
        return batches, total

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Add a micro-batch's gradients, group by group; return its share of the optimiser step's loss."""
        self._to_training_mode(model)
        # Cancel DDP's average over processes: `num_items_in_batch` already counts all of them.
        scale = self.args.world_size / max(float(num_items_in_batch), 1.0)
        loss = self.gradients(model, inputs["groups"], scale)
        if self.accelerator.sync_gradients and isinstance(model, DistributedDataParallel):
            mean_gradients(model)
        self._check_loss(loss)
        return loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, its metadata and its tokenizer.

        Raises:
            ImplicitPRMError: the loss of the first training group is not finite; nothing is saved.
        """
        if self.train_dataset is not None:
            first: Any = self.data_collator([self.train_dataset[0]])
            loss: Any = self.prediction_step(self.model_wrapped, first, prediction_loss_only=True)[0]
            self._require_finite("loss of the model to be saved", loss)
        with self._saving():
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, *arguments: Any, **options: Any) -> None:
        with self._saving():
            super()._save_checkpoint(*arguments, **options)

    def _saving(self) -> AbstractContextManager[None]:
        return clear_save_errors(str(self.args.output_dir), type(self.metadata).read)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        self._checkpoint = checkpoint
        with clear_load_errors(str(checkpoint), "the states of optimiser and scheduler"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with clear_load_errors(str(checkpoint), "the states of random generators and of the log"):
            super()._load_rng_state(checkpoint)
            if checkpoint is not None:
                self._load_log_state(Path(checkpoint))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        state = {
            "last_logged": self._globalstep_last_logged,
            "loss": self._tr_loss.item(),
            "total_loss": self._total_loss_scalar,
            "sums": {name: total.tolist() for name, total in self._sums.items()},
            "dev": self.dev_fingerprint,
        }
        write_json(Path(output_dir) / self._log_state_file, state)

    @property
    def _log_state_file(self) -> str:
        """What this process has observed since the last log, so that a resumed run logs the same means."""
        return f"log_state_{self.args.process_index}.json"

    def _load_log_state(self, checkpoint: Path) -> None:
        path = checkpoint / self._log_state_file
        self.same_dev_set = False
        if not path.exists():  # another number of processes has saved it, or an earlier version
            return
        state = json.loads(path.read_text(encoding="utf-8"))
        self.same_dev_set = state.get("dev") == self.dev_fingerprint
        self._globalstep_last_logged = state["last_logged"]
        self._tr_loss = torch.tensor(state["loss"], device=self.args.device)
        self._total_loss_scalar = state["total_loss"]
        for name, total in state["sums"].items():  # the first step may have been observed already
            self._sums[name] += torch.tensor(total, dtype=torch.float64)
        self._log_is_whole = True

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        with without_token(self):
            super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(str(output_dir or self.args.output_dir))
            if folder.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-"):
                (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
            self.metadata.write(folder)
            set_weight_permissions(folder, like=folder / self.metadata.file)

    def pieces(self, model: nn.Module, lengths: Sequence[int], row_overhead: int = 0) -> list[list[int]]:
        """Places of responses that share a forward pass.

        Under FSDP every forward pass is a collective, so processes with fewer pieces add empty ones.

        Args:
            lengths: tokens of each response.
            row_overhead: tokens that every row of a forward pass adds.
        """
        cut = pieces(lengths, self.max_tokens, row_overhead)
        if isinstance(model, FSDPModule):
            most = torch.tensor(len(cut), device=self.args.device)
            dist.all_reduce(most, op=dist.ReduceOp.MAX)
            cut += [[]] * (int(most) - len(cut))
        return cut

    def _backward(self, total: Tensor) -> None:
        """Backward pass of a part of an optimiser step's loss."""
        scaler = self.accelerator.scaler  # float16
        (total if scaler is None else scaler.scale(total)).backward()

    def _check_loss(self, loss: Tensor) -> None:
        """Stop, in all processes, if an optimiser step's loss is not finite. `loss` is that of a micro-batch."""
        self._step_loss += loss
        if self.accelerator.sync_gradients:
            total = self.accelerator.reduce(self._step_loss, reduction="sum")
            self._step_loss = torch.zeros_like(self._step_loss)
            self._require_finite("loss", total)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float | None:
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and self.accelerator.scaler is None:  # float16's scaler skips steps that overflow
            self._require_finite("gradient norm", norm)
        return norm

    def _require_finite(self, name: str, value: Tensor | float) -> None:
        if math.isfinite(value):
            return
        step = self.state.global_step
        if step == 0:
            raise ImplicitPRMError(
                f"the {name} is {float(value)} at the first step, so the initial model's log-probabilities are not "
                "finite; check its weights, and use bfloat16 or float32 in the place of float16"
            )
        raise ImplicitPRMError(
            f"training diverged: after step {step} the {name} is {float(value)}. Use a smaller learning_rate (it is "
            f"{self.args.learning_rate:g}) or more warmup_steps. "
            + kept(str(self.args.output_dir), type(self.metadata).read)
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of what was observed since the last training log, over all processes."""
        if "train_loss" in logs and not self._log_is_whole and self._checkpoint is not None:
            with clear_load_errors(self._checkpoint, "the state of the log"):
                self._load_log_state(Path(self._checkpoint))  # after its last step no epoch does
            self._total_loss_scalar += self._tr_loss.item()
        if "train_loss" in logs and self._log_is_whole:  # transformers divides by the steps since it has resumed
            logs["train_loss"] = self._total_loss_scalar / self.state.global_step
        elif "train_loss" in logs and self.state.global_step == self._initial_global_step:
            logs.pop("train_loss")  # a checkpoint of an earlier version: there is no loss, and nothing to log
            return
        if "loss" in logs:
            logs |= self.observed_means()
            self._sums.clear()
        super().log(logs, start_time)

    def observed_means(self) -> dict[str, float]:
        """Means of what was observed since the last training log, over all processes."""
        means = {}
        for name in self.observed_names():
            total, count = self.accelerator.reduce(self._sums[name].to(self.args.device), reduction="sum").tolist()
            if count:
                means[name] = total / count
        return means

    def observe(self, name: str, values: Tensor) -> None:
        """Add `values` to the mean that is logged under `name`, one of `observed_names`."""
        self._sums[name] += torch.tensor([values.sum().item(), values.numel()], dtype=torch.float64)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """6 FLOPs per weight and token of the batch."""
        tokens = sum(self.group_tokens(group) for group in inputs["groups"])
        return 6 * tokens * sum(p.numel() for p in self.accelerator.unwrap_model(self.model).parameters())

    def observed_names(self) -> list[str]:
        """Names that `observe` is called with; the same in all processes, even in one that had no such value."""
        raise NotImplementedError

    def _to_training_mode(self, model: nn.Module) -> None:
        model.train()
        if callable(train := getattr(self.optimizer, "train", None)):  # schedule-free optimisers
            train()


def mean_gradients(model: nn.Module) -> None:
    """Average gradients over processes, as DDP does: its hooks expect one forward and one backward pass per step."""
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
