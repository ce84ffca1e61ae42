"""ImplicitPRMTrainer: transformers' Trainer whose batches are prompts with all of their responses.

`per_device_train_batch_size` counts prompts. Every pair of a prompt's responses is formed from one encoding of each,
and the prompt is encoded once (`group_logprobs.py`). Sums and counts of an optimiser step are known before its first
backward pass (`get_batch_samples`), so the gradient depends neither on accumulation nor on the number of processes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from implicit_prm.backbone import completion_logprobs, pad_rows, token_budget
from implicit_prm.config import LossConfig
from implicit_prm.group_logprobs import Ids, PlainRows, SharedPrompt, open_prompt, pieces
from implicit_prm.records import ImplicitPRMError
from implicit_prm.reward import head
from implicit_prm.reward.losses import LOSSES, LossInputs, LossOutput, kl_baselines, pairs, unit_count
from implicit_prm.settings import NONE, Settings
from implicit_prm.training.batches import (
    GroupSampler,
    Rows,
    TrainingGroup,
    collate,
    loss_inputs,
    padded_step_labels,
)
from implicit_prm.training.metrics import ABSENT, dev_metrics


class ImplicitPRMTrainer(Trainer):
    """Fits r(y) = beta * log[pi_theta(y) / pi_ref(y)] to response labels with an outcome loss.

    Args:
        model: the policy, or a PEFT model of it.
        loss: which loss, with its options.
        settings: beta and the rest of what is saved as implicit_prm.json with every checkpoint.
        max_tokens: in one forward pass, padding included; by default what suits the device.
        train_dataset, eval_dataset: `GroupDataset`s, with the reference's log-probabilities in their cache.
        args, processing_class, ...: as for transformers' Trainer. Batch sizes count prompts.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: TrainingArguments,
        loss: LossConfig,
        settings: Settings,
        max_tokens: int | None = None,
        *,
        processing_class: PreTrainedTokenizerBase,
        **options: Any,
    ) -> None:
        if args.n_gpu > 1:
            raise ImplicitPRMError(
                f"{args.n_gpu} GPUs are visible to one process. Use `accelerate launch -m implicit_prm.cli.train ...` "
                "for all of them, or CUDA_VISIBLE_DEVICES=0 for one"
            )
        args.remove_unused_columns = False  # the columns are our collator's, not the model's arguments
        beta = None if settings.reference == NONE else settings.beta
        super().__init__(
            model=model,
            args=args,
            data_collator=collate,
            processing_class=processing_class,
            compute_metrics=partial(dev_metrics, beta=beta),
            **options,
        )
        if self.is_fsdp_enabled and not getattr(self.accelerator, "is_fsdp2", False):
            raise ImplicitPRMError("FSDP version 1 is not supported; set fsdp_version: 2 in the accelerate config")
        self.loss, self.settings = loss, settings
        self.max_tokens = max_tokens or token_budget(args.device, loss.by_response)
        # The loss is divided by the units of the whole optimiser step here; transformers must not divide again.
        self.model_accepts_loss_kwargs = True
        self._kl: Tensor | None = None
        self._sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(2, dtype=torch.float64))

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupSampler:
        dataset: Any = train_dataset or self.train_dataset
        # One process leaves its last batch short; several must have as many batches as each other.
        multiple = self.args.train_batch_size * self.args.world_size if self.args.world_size > 1 else 1
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return GroupSampler(len(dataset), multiple, seed, self.args.train_sampling_strategy == "random")

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of an optimiser step, and how many loss units they hold over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        units = sum(_units(group, self.loss) for batch in batches for group in batch["groups"])
        self._kl = self._kl_baselines([group for batch in batches for group in batch["groups"]])
        total = self.accelerator.reduce(torch.tensor(float(units), device=self.args.device), reduction="sum")
        return batches, total

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Gradients of a micro-batch, group by group; the loss over the optimiser step's units in all processes."""
        model.train()
        if callable(train := getattr(self.optimizer, "train", None)):  # schedule-free optimisers
            train()
        # The mean over processes that is taken of gradients is undone, as the count is of all of them.
        scale = self.args.world_size / max(float(num_items_in_batch), 1.0)
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:  # its engine wants one forward and backward
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            self.accelerator.backward(loss, scale_wrt_gas=False)
            return loss.detach()
        loss = torch.zeros((), device=self.args.device)
        for group in inputs["groups"]:
            loss += self._group_gradients(model, group, scale)
        if self.accelerator.sync_gradients and isinstance(model, DistributedDataParallel):
            _mean_gradients(model)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The same loss from one forward pass through the wrapper, a row for each response: for DeepSpeed."""
        groups = [group for group in inputs["groups"] if len(group.rows)]
        if not groups:
            raise ImplicitPRMError(
                "DeepSpeed: the prompts do not divide by processes x batch size; set data.max_prompts to a multiple"
            )
        rows = [(group.prompt_ids, ids) for group in groups for ids in group.rows.ids]
        batch = {name: tensor.to(self.args.device) for name, tensor in pad_rows(rows, 0).items()}
        policy = completion_logprobs(model, **batch, core=self.accelerator.unwrap_model(model))
        mask = batch["completion_mask"]
        reference = None
        if groups[0].rows.reference is not None:
            flat = torch.cat([torch.from_numpy(values) for group in groups for values in group.rows.reference])
            reference = torch.zeros_like(policy).masked_scatter(mask, flat.to(policy.device))
        log_ratio = head.token_log_ratio(policy, reference, mask)
        token_rewards = head.token_rewards(log_ratio, self.settings.beta)
        rewards = head.outcome_rewards(token_rewards)
        in_rows = pad_sequence(token_rewards[mask].split([len(ids) for _, ids in rows]), batch_first=True)
        totals = loss_inputs(groups, rewards, in_rows, self._kl)
        output = LOSSES[self.loss.name](totals, self.loss)
        self._count(totals, log_ratio.detach().sum(-1))
        loss = output.total * self.args.world_size / max(float(num_items_in_batch or output.units), 1.0)
        return (loss, output) if return_outputs else loss

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Loss; [G, K, 2] outcome reward and lowest step reward with [G, 2] shares of the batch's loss sum and units;
        [G, K] labels. Absent responses are -100.
        """
        groups: list[TrainingGroup] = inputs["groups"]
        kl = self._kl_baselines(groups)
        shape = (len(groups), max(len(group.rows) for group in groups))
        values, labels = torch.full((*shape, 2), float(ABSENT)), torch.full(shape, ABSENT)
        sums = torch.zeros(len(groups), 2)
        for place, group in enumerate(groups):
            tokens = self._token_rewards(model, group.prompt_ids, group.rows)
            outcome = torch.stack([one.sum() for one in tokens])
            output = self._group_loss(outcome, group, kl, pad_sequence(tokens, batch_first=True))
            sums[place] = torch.tensor([output.total.item(), output.units])
            for column, (rewards, steps) in enumerate(zip(tokens, group.step_of_token, strict=True)):
                by_step, prefixes = head.step_rewards(rewards, torch.tensor(steps), max(steps) + 1)
                values[place, column] = torch.stack([prefixes[-1], by_step.min()])
                labels[place, column] = int(group.labels[column])
        device, (total, units) = self.args.device, sums.sum(0).tolist()
        loss = torch.tensor(total / max(units, 1.0), device=device)
        return loss, (values.to(device), sums.to(device)), labels.to(device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what was counted since the last training log, over all processes."""
        if "loss" in logs:
            for name in self._counted():
                total, count = self.accelerator.reduce(self._sums[name].to(self.args.device), reduction="sum").tolist()
                if count:
                    logs[name] = total / count
            self._sums.clear()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """6 FLOPs per weight and token of the batch, each prompt counted once."""
        groups: list[TrainingGroup] = inputs["groups"]
        tokens = sum(len(group.prompt_ids) + sum(map(len, group.rows.ids)) for group in groups)
        return 6 * tokens * sum(p.numel() for p in self.accelerator.unwrap_model(self.model).parameters())

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(str(output_dir or self.args.output_dir))
            if folder.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-"):
                (folder / "README.md").unlink(missing_ok=True)  # PEFT's form of a card, which nobody has filled in
            self.settings.write(folder)

    def _group_gradients(self, model: nn.Module, group: TrainingGroup, scale: float) -> Tensor:
        """Adds the gradients of one group's loss, and returns its detached value; all times `scale`.

        A loss that is a sum over responses has its gradient taken piece by piece. One that looks at a whole group has,
        if the group does not fit in one piece, its derivative by each reward computed first; then each response's
        gradient is that of its reward, times the derivative. Both are exact. All pieces but one are then run twice: the
        first, which is the largest, is run last without being let go.
        """
        if not len(group.rows) and not isinstance(model, FSDPModule):
            return torch.zeros((), device=self.args.device)
        prompt, cut = self._open(model, group.prompt_ids, group.rows)
        labels = torch.tensor(group.labels, dtype=torch.bool)
        rewards, nats = torch.zeros(len(group.rows)), torch.zeros(len(group.rows))
        value, derivative, held = torch.zeros(()), None, None
        if len(cut) > 1 and not self.loss.by_response:
            with torch.no_grad():
                for piece in cut[1:]:
                    rewards[piece] = self._piece_rewards(prompt, group.rows, piece)[0].sum(-1).cpu()
            held = self._piece_rewards(prompt, group.rows, cut[0])
            rewards[cut[0]] = held[0].detach().sum(-1).cpu()
            value, derivative = self._derivative(rewards, group)
        for piece in cut:
            token_rewards, log_ratio = held or self._piece_rewards(prompt, group.rows, piece)
            held = None
            outcome = head.outcome_rewards(token_rewards)
            if derivative is not None:
                total = (outcome * derivative[piece].to(outcome.device)).sum()
            else:
                total = self._group_loss(outcome, group.take(piece), self._kl, token_rewards).total
                value = value + total.detach().cpu()
            self._backward(total * scale)
            rewards[piece], nats[piece] = outcome.detach().cpu(), log_ratio.detach().sum(-1).cpu()
        prompt.backward()
        self._count(LossInputs(rewards, labels, torch.zeros(len(labels), dtype=torch.long)), nats)
        return (value * scale).to(self.args.device)

    def _backward(self, total: Tensor) -> None:
        scaler = self.accelerator.scaler  # float16
        (total if scaler is None else scaler.scale(total)).backward()

    def _derivative(self, rewards: Tensor, group: TrainingGroup) -> tuple[Tensor, Tensor]:
        """The group's loss at these rewards, and [K] its derivative by each."""
        leaf = rewards.clone().requires_grad_()
        total = self._group_loss(leaf, group, self._kl).total
        return total.detach(), torch.autograd.grad(total, leaf)[0]

    def _group_loss(
        self, rewards: Tensor, group: TrainingGroup, kl: Tensor | None, token_rewards: Tensor | None = None
    ) -> LossOutput:
        return LOSSES[self.loss.name](loss_inputs([group], rewards, token_rewards, kl), self.loss)

    def _open(self, model: nn.Module, prompt_ids: Ids, rows: Rows) -> tuple[SharedPrompt | PlainRows, list[list[int]]]:
        """The prompt, encoded, and its responses in pieces. Under FSDP all processes run as many as each other."""
        with self.compute_loss_context_manager():
            prompt = open_prompt(self.accelerator.unwrap_model(model), prompt_ids)
        cut = pieces([len(ids) for ids in rows.ids], self.max_tokens, prompt.row_overhead)
        if isinstance(model, FSDPModule):
            most = torch.tensor(len(cut), device=self.args.device)
            dist.all_reduce(most, op=dist.ReduceOp.MAX)
            cut += [[]] * (int(most) - len(cut))
        return prompt, cut

    def _piece_rewards(self, prompt: SharedPrompt | PlainRows, rows: Rows, piece: list[int]) -> tuple[Tensor, Tensor]:
        """[K, T] token rewards and [K, T] log-ratio of some responses; zero behind each one's end."""
        with self.compute_loss_context_manager():
            policy = prompt.logprobs([rows.ids[place] for place in piece])
        lengths = torch.tensor([len(rows.ids[place]) for place in piece], dtype=torch.long)
        mask = torch.arange(policy.shape[1]) < lengths[:, None]
        reference = None
        if rows.reference is not None and piece:
            told = torch.cat([torch.from_numpy(rows.reference[place]) for place in piece])
            reference = torch.zeros(mask.shape).masked_scatter(mask, told).to(policy.device)
        log_ratio = head.token_log_ratio(policy, reference, mask.to(policy.device))
        return head.token_rewards(log_ratio, self.settings.beta), log_ratio

    @torch.no_grad()
    def _token_rewards(self, model: nn.Module, prompt_ids: Ids, rows: Rows) -> list[Tensor]:
        """Each response's [T] token rewards, on the CPU, in order."""
        prompt, cut = self._open(model, prompt_ids, rows)
        found: dict[int, Tensor] = {}
        for piece in cut:
            rewards = self._piece_rewards(prompt, rows, piece)[0].cpu()
            found |= {place: rewards[row, : len(rows.ids[place])] for row, place in enumerate(piece)}
        return [found[place] for place in range(len(rows))]

    def _kl_baselines(self, groups: Sequence[TrainingGroup]) -> Tensor | None:
        """What KTO subtracts, from every micro-batch of the step and every process; None for other losses."""
        if self.loss.name != "kto":
            return None
        sums, counts = (torch.zeros(2, dtype=torch.float64, device=self.args.device) for _ in range(2))
        for group in groups:
            paired = self.loss.form == "paired"
            rows = group.rows if paired else group.others
            found = [one.sum() for one in self._token_rewards(self.model_wrapped, group.prompt_ids, rows)]
            for reward, label in zip(found, group.labels, strict=True):
                sides = [1 if label else 0] if paired else [0, 1]  # each class against the other, or all against all
                for side in sides:
                    sums[side] += reward.to(sums.device)
                    counts[side] += 1
        sums, counts = (self.accelerator.reduce(tensor, reduction="sum") for tensor in (sums, counts))
        return kl_baselines(sums, counts).float()

    def _counted(self) -> list[str]:
        names = ["kl", "rewards/accuracies", "rewards/chosen", "rewards/margins", "rewards/rejected"]
        return [*names, "kto/baseline"] if self.loss.name == "kto" else names

    def _count(self, inputs: LossInputs, log_ratio: Tensor) -> None:
        """Observe [K] rewards and [K] log-ratios, in nats per response."""
        rewards, labels = inputs.rewards.detach(), inputs.labels
        chosen, rejected = pairs(labels, inputs.groups)
        margins = rewards[chosen] - rewards[rejected]
        observed = {
            "rewards/chosen": rewards[labels],
            "rewards/rejected": rewards[~labels],
            "rewards/margins": margins,
            "rewards/accuracies": (margins > 0).float(),
            # KL(pi_ref || pi_theta) in nats per response, if the responses were sampled from the reference.
            "kl": -log_ratio,
        }
        if self._kl is not None:
            observed["kto/baseline"] = self._kl
        for name, values in observed.items():
            self._sums[name] += torch.tensor([values.sum().item(), values.numel()], dtype=torch.float64)


def _units(group: TrainingGroup, loss: LossConfig) -> float:
    labels = torch.tensor(group.labels, dtype=torch.bool)
    step_labels = padded_step_labels([group]) if loss.needs_step_labels else None
    return unit_count(labels, torch.zeros(len(labels), dtype=torch.long), loss, step_labels)


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
