"""LogRatioTrainer: fits beta x log-ratio to labels of responses, on data that is prepared already.

`ImplicitPRMTrainer` and `ipr-train` prepare the data and run this trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from implicit_prm.config import LossConfig
from implicit_prm.models.checkpoint import NONE, CheckpointMetadata
from implicit_prm.models.forward import completion_logprobs, pad_rows, token_budget
from implicit_prm.models.shared_prompt import Ids, PlainRows, SharedPrompt, open_prompt
from implicit_prm.rewards import implicit_reward
from implicit_prm.rewards.losses import LOSSES, LossInputs, LossOutput, kl_baselines, pairs, unit_count
from implicit_prm.training.batches import (
    ResponseDataset,
    ResponseRows,
    TrainingGroup,
    collate_responses,
    loss_inputs,
    padded_step_labels,
)
from implicit_prm.training.group_trainer import GroupTrainer
from implicit_prm.training.metrics import ABSENT, dev_metrics, pair_accuracy


class LogRatioTrainer(GroupTrainer):
    """Fits r(y) = beta * log[pi_theta(y) / pi_ref(y)] to response labels with an outcome loss.

    A prompt is encoded once for all of its responses, and each response once for all pairs that it is part of.

    Args:
        model: the policy, or a PEFT model of it.
        args: as for transformers' Trainer. Batch sizes count prompts. With `loss.batch_unit=response`, that of
            training counts responses.
        loss: the loss with its options.
        metadata: beta, and what else is saved as implicit_prm.json with every checkpoint.
        max_tokens: in one forward pass, padding included; by default what suits the device.
        processing_class: the tokenizer.
        options: other arguments of `GroupTrainer`. The datasets are `GroupDataset`s with reference log-probabilities.
    """

    metadata: CheckpointMetadata

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: TrainingArguments,
        loss: LossConfig,
        metadata: CheckpointMetadata,
        max_tokens: int | None = None,
        *,
        processing_class: PreTrainedTokenizerBase,
        **options: Any,
    ) -> None:
        metrics = partial(dev_metrics, beta=metadata.beta, has_reference=metadata.reference != NONE)
        budget = max_tokens or token_budget(args.device, loss.by_response)
        self.single_responses = loss.single_responses
        if self.single_responses:
            options["data_collator"] = collate_responses
            options["train_dataset"] = ResponseDataset(options["train_dataset"])
        super().__init__(model, args, metadata, budget, metrics, processing_class=processing_class, **options)
        self.loss = loss
        self._kl: Tensor | None = None

    def units(self, group: TrainingGroup) -> float:
        """Number of pairs, responses, groups or steps, whichever the loss sums over."""
        labels = torch.tensor(group.labels, dtype=torch.bool)
        step_labels = padded_step_labels([group]) if self.loss.needs_step_labels else None
        return unit_count(labels, torch.zeros(len(labels), dtype=torch.long), self.loss, step_labels)

    def group_tokens(self, group: TrainingGroup) -> int:
        """Tokens of the responses and, once, of the prompt."""
        return len(group.prompt_ids) + sum(map(len, group.rows.ids))

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of an optimiser step and their loss units. Also computes the step's KTO baselines."""
        batches, total = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._kl = self._kl_baselines([group for batch in batches for group in batch["groups"]])
        return batches, total

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Add a micro-batch's gradients. DeepSpeed's engine expects a single forward and backward pass."""
        if self.accelerator.distributed_type != DistributedType.DEEPSPEED:
            return super().training_step(model, inputs, num_items_in_batch)
        self._to_training_mode(model)
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        self.accelerator.backward(loss, scale_wrt_gas=False)
        self._check_loss(loss.detach())
        return loss.detach()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The same loss from one forward pass through the wrapper, with a row per response: for DeepSpeed."""
        # A process that has only padding left runs a row without a response, whose loss is 0.
        output = self._padded_loss(model, [group for group in inputs["groups"] if len(group.rows)])
        loss = output.total * self.args.world_size / max(float(num_items_in_batch or output.units), 1.0)
        return (loss, output) if return_outputs else loss

    def gradients(self, model: nn.Module, groups: Sequence[TrainingGroup], scale: float) -> Tensor:
        """Add a micro-batch's gradients: responses that share a prompt together, single ones as padded rows.

        Under FSDP every forward pass is a collective, and processes hold different numbers of prompts in a batch of
        single responses, so there all of them are padded rows.
        """
        if not self.single_responses:
            return super().gradients(model, groups, scale)
        shared, single = [], []
        for group in groups:
            if len(group.rows) > 1 and not isinstance(model, FSDPModule):
                shared.append(group)
            else:
                single += [group.take([k]) for k in range(len(group.rows))]
        loss = super().gradients(model, shared, scale)
        core = self.accelerator.unwrap_model(model)
        for piece in self.pieces(model, [len(one.prompt_ids) + len(one.rows.ids[0]) for one in single]):
            with self.compute_loss_context_manager():
                total = self._padded_loss(core, [single[place] for place in piece]).total
            self._backward(total * scale)
            loss += total.detach() * scale
        return loss

    def _padded_loss(self, model: nn.Module, groups: Sequence[TrainingGroup]) -> LossOutput:
        """The loss of some groups from one forward pass, a padded row for each response."""
        rows = [(group.prompt_ids, ids) for group in groups for ids in group.rows.ids]
        reference = [values for group in groups for values in group.rows.reference or []]
        token_rewards, log_ratio = self._padded_rewards(model, rows, reference)
        inputs = loss_inputs(groups, implicit_reward.outcome_rewards(token_rewards), token_rewards, self._kl)
        self._observe_rewards(inputs, log_ratio.detach().sum(-1))
        return LOSSES[self.loss.name](inputs, self.loss)

    def _padded_rewards(
        self, model: nn.Module, rows: Sequence[tuple[Ids, Ids]], reference: Sequence[np.ndarray]
    ) -> tuple[Tensor, Tensor]:
        """Token rewards of (prompt, response) rows from one forward pass.

        Args:
            reference: [T] reference log-probabilities of each row; empty if there is no reference.

        Returns:
            [K, T] token rewards and [K, T] log-ratios, each row from column 0; zero after its end.
        """
        batch = {name: tensor.to(self.args.device) for name, tensor in pad_rows(rows or [([0, 0], [])], 0).items()}
        policy = completion_logprobs(model, **batch, core=self.accelerator.unwrap_model(model))
        mask = batch["completion_mask"]
        flat = torch.cat([torch.zeros(0), *map(torch.from_numpy, reference)]).to(policy.device)
        values = torch.zeros_like(policy).masked_scatter(mask, flat) if reference else None
        log_ratio = implicit_reward.token_log_ratio(policy, values, mask)
        aligned = pad_sequence(log_ratio[mask].split([len(ids) for _, ids in rows] or [0]), batch_first=True)[
            : len(rows)
        ]
        return implicit_reward.token_rewards(aligned, self.metadata.beta), aligned

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Evaluate a micro-batch of G groups with at most K responses.

        Returns:
            The loss; [G, K, 2] outcome reward and lowest step reward of each response, and [G, 2] loss sum and units of
            each group; [G, K] labels. Absent responses are -100.
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
                by_step, prefixes = implicit_reward.step_rewards(rewards, torch.tensor(steps), max(steps) + 1)
                values[place, column] = torch.stack([prefixes[-1], by_step.min()])
                labels[place, column] = int(group.labels[column])
        device, (total, units) = self.args.device, sums.sum(0).tolist()
        loss = torch.tensor(total / max(units, 1.0), device=device)
        return loss, (values.to(device), sums.to(device)), labels.to(device)

    def group_gradients(self, model: nn.Module, group: TrainingGroup, scale: float) -> Tensor:
        """Add the gradients of one group's loss, and return its detached value; all times `scale`.

        A loss that is a sum over responses is differentiated piece by piece. Any other loss needs all rewards of the
        group: if they do not fit in one piece, they are computed first without gradients, with the loss's derivative by
        each reward; the gradient of a piece is then that of its rewards, weighted by these derivatives. Both are exact.
        In the second case every piece runs twice, except for the first and largest one, whose graph is kept.
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
            outcome = implicit_reward.outcome_rewards(token_rewards)
            if derivative is not None:
                total = (outcome * derivative[piece].to(outcome.device)).sum()
            else:
                total = self._group_loss(outcome, group.take(piece), self._kl, token_rewards).total
                value = value + total.detach().cpu()
            self._backward(total * scale)
            rewards[piece], nats[piece] = outcome.detach().cpu(), log_ratio.detach().sum(-1).cpu()
        prompt.backward()
        self._observe_rewards(LossInputs(rewards, labels, torch.zeros(len(labels), dtype=torch.long)), nats)
        return (value * scale).to(self.args.device)

    def _derivative(self, rewards: Tensor, group: TrainingGroup) -> tuple[Tensor, Tensor]:
        """The group's loss at these rewards, and [K] its derivative by each of them."""
        leaf = rewards.clone().requires_grad_()
        total = self._group_loss(leaf, group, self._kl).total
        return total.detach(), torch.autograd.grad(total, leaf)[0]

    def _group_loss(
        self, rewards: Tensor, group: TrainingGroup, kl: Tensor | None, token_rewards: Tensor | None = None
    ) -> LossOutput:
        return LOSSES[self.loss.name](loss_inputs([group], rewards, token_rewards, kl), self.loss)

    def _open(
        self, model: nn.Module, prompt_ids: Ids, rows: ResponseRows
    ) -> tuple[SharedPrompt | PlainRows, list[list[int]]]:
        """The encoded prompt, and its responses in pieces. A single response has nothing to share its prompt with."""
        core = self.accelerator.unwrap_model(model)
        if len(rows) == 1 and not isinstance(model, FSDPModule):  # under FSDP all processes need as many forward passes
            prompt: SharedPrompt | PlainRows = PlainRows(core, prompt_ids)
        else:
            with self.compute_loss_context_manager():
                prompt = open_prompt(core, prompt_ids)
        return prompt, self.pieces(model, [len(ids) for ids in rows.ids], prompt.row_overhead)

    def _piece_rewards(
        self, prompt: SharedPrompt | PlainRows, rows: ResponseRows, piece: list[int]
    ) -> tuple[Tensor, Tensor]:
        """[K, T] token rewards and [K, T] log-ratios of some responses, zero after the end of each."""
        with self.compute_loss_context_manager():
            policy = prompt.logprobs([rows.ids[place] for place in piece])
        lengths = torch.tensor([len(rows.ids[place]) for place in piece], dtype=torch.long)
        mask = torch.arange(policy.shape[1]) < lengths[:, None]
        reference = None
        if rows.reference is not None and piece:
            values = torch.cat([torch.from_numpy(rows.reference[place]) for place in piece])
            reference = torch.zeros(mask.shape).masked_scatter(mask, values).to(policy.device)
        log_ratio = implicit_reward.token_log_ratio(policy, reference, mask.to(policy.device))
        return implicit_reward.token_rewards(log_ratio, self.metadata.beta), log_ratio

    @torch.no_grad()
    def _token_rewards(self, model: nn.Module, prompt_ids: Ids, rows: ResponseRows) -> list[Tensor]:
        """[T] token rewards of each response, on the CPU."""
        prompt, cut = self._open(model, prompt_ids, rows)
        found: dict[int, Tensor] = {}
        for piece in cut:
            rewards = self._piece_rewards(prompt, rows, piece)[0].cpu()
            found |= {place: rewards[row, : len(rows.ids[place])] for row, place in enumerate(piece)}
        return [found[place] for place in range(len(rows))]

    def _kl_baselines(self, groups: Sequence[TrainingGroup]) -> Tensor | None:
        """[2] KTO's baselines, over all micro-batches of the step and all processes; None for other losses."""
        if self.loss.name != "kto":
            return None
        sums, counts = (torch.zeros(2, dtype=torch.float64, device=self.args.device) for _ in range(2))
        paired = self.loss.form == "paired"
        if self.single_responses:
            rewards = self._mismatched_rewards(groups)
            sums, counts = sums + rewards.sum(), counts + len(rewards)
            groups = []
        for group in groups:
            rows = group.rows if paired else group.mismatched
            found = [one.sum() for one in self._token_rewards(self.model_wrapped, group.prompt_ids, rows)]
            for reward, label in zip(found, group.labels, strict=True):
                sides = [1 if label else 0] if paired else [0, 1]  # baseline of the other class, or of both
                for side in sides:
                    sums[side] += reward.to(sums.device)
                    counts[side] += 1
        sums, counts = (self.accelerator.reduce(tensor, reduction="sum") for tensor in (sums, counts))
        return kl_baselines(sums, counts).float()

    @torch.no_grad()
    def _mismatched_rewards(self, groups: Sequence[TrainingGroup]) -> Tensor:
        """[K] rewards of the responses to other prompts, in padded rows."""
        rows = [(group.prompt_ids, ids) for group in groups for ids in group.mismatched.ids]
        reference = [values for group in groups for values in group.mismatched.reference or []]
        core, found = self.accelerator.unwrap_model(self.model_wrapped), [torch.zeros(0, device=self.args.device)]
        for piece in self.pieces(self.model_wrapped, [len(prompt) + len(ids) for prompt, ids in rows]):
            with self.compute_loss_context_manager():
                rewards, _ = self._padded_rewards(
                    core, [rows[k] for k in piece], [reference[k] for k in piece] if reference else []
                )
            found.append(rewards.sum(-1)[: len(piece)])
        return torch.cat(found)

    def observed_names(self) -> list[str]:
        names = ["forward_kl", "rewards/chosen", "rewards/rejected"]
        names += [] if self.single_responses else ["rewards/accuracies", "rewards/margins"]
        return [*names, "kto/baseline"] if self.loss.name == "kto" else names

    def observed_means(self) -> dict[str, float]:
        """Batches of single responses hold few pairs: there the margin is that of the means, as in TRL's KTOTrainer."""
        means = super().observed_means()
        if self.single_responses and {"rewards/chosen", "rewards/rejected"} <= means.keys():
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
        return means

    def _observe_rewards(self, inputs: LossInputs, log_ratio: Tensor) -> None:
        """Observe [K] rewards and [K] log-ratios, in nats per response."""
        rewards, labels = inputs.rewards.detach(), inputs.labels
        chosen, rejected = pairs(labels, inputs.groups)
        margins = rewards[chosen] - rewards[rejected]
        observed = {
            "rewards/chosen": rewards[labels],
            "rewards/rejected": rewards[~labels],
            "rewards/margins": margins,
            "rewards/accuracies": pair_accuracy(margins, self.metadata.beta),
            "forward_kl": -log_ratio,
        }
        if self._kl is not None:
            observed["kto/baseline"] = self._kl
        for name, values in observed.items():
            self.observe(name, values)
