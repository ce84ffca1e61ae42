"""ImplicitPRMTrainer: transformers' Trainer whose batches are prompts with all of their responses.

`per_device_train_batch_size` counts prompts. A group is never cut, so every pair is formed from one encoding of each
response. Sums and counts of an optimiser step are known before its first backward pass (`get_batch_samples`), so the
gradient does not depend on accumulation steps or on the number of processes.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from implicit_prm.backbone import completion_logprobs, pad_rows
from implicit_prm.config import LossConfig
from implicit_prm.data.files import JsonLines, atomic_write
from implicit_prm.data.tokens import EncodedGroup
from implicit_prm.model import reference_model
from implicit_prm.records import ImplicitPRMError
from implicit_prm.reward import head
from implicit_prm.reward.losses import LOSSES, LossInputs, kl_baselines, pairs, unit_count
from implicit_prm.settings import NONE, Settings

ABSENT = -100  # what transformers pads gathered arrays with


class GroupDataset(Dataset):
    """Encoded groups; with `mismatched`, each comes with responses to another prompt, for KTO's KL estimate."""

    def __init__(
        self, groups: Sequence[EncodedGroup], mismatched: bool = False, limit_tokens: int | None = None
    ) -> None:
        if mismatched and len(groups) < 2:
            raise ImplicitPRMError(
                "loss=kto needs at least two prompts, in the dev set as well: its KL is estimated on mismatched pairs"
            )
        self.groups, self.mismatched, self.limit_tokens = groups, mismatched, limit_tokens

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, place: int) -> dict[str, Any]:
        group = self.groups[place]
        item: dict[str, Any] = {"group": group}
        if self.mismatched:
            other = self.groups[(place + 1) % len(self.groups)].responses
            room = None if self.limit_tokens is None else self.limit_tokens - len(group.prompt_ids)
            item["others"] = [other[number % len(other)].ids[:room] for number in range(len(group.responses))]
        return item


class GroupCollator:
    """Groups to right-padded tensors, one row per response.

    Returns input_ids, attention_mask, completion_mask [R, T]; labels [R] bool; groups [R] int64, numbered within the
    batch; step_of_token [R, T] int64 (0 outside the completion); for KTO the mismatched rows as kl_* too.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        groups: list[EncodedGroup] = [item["group"] for item in items]
        flat = [(group, response) for group in groups for response in group.responses]
        batch = pad_rows([(group.prompt_ids, response.ids) for group, response in flat], self.pad_id)
        batch["labels"] = torch.tensor([label for group in groups for label in group.labels])
        batch["groups"] = torch.tensor([number for number, group in enumerate(groups) for _ in group.responses])
        batch["step_of_token"] = torch.zeros_like(batch["input_ids"])
        batch["step_of_token"][batch["completion_mask"]] = torch.tensor([s for _, r in flat for s in r.step_of_token])
        if "others" in items[0]:
            rows = [(item["group"].prompt_ids, ids) for item in items for ids in item["others"]]
            batch |= {f"kl_{name}": tensor for name, tensor in pad_rows(rows, self.pad_id).items()}
        return batch


class ImplicitPRMTrainer(Trainer):
    """Fits r(y) = beta * log[pi_theta(y) / pi_ref(y)] to response labels with an outcome loss.

    Args:
        model: the policy, or a PEFT model of it.
        loss: which loss, with its options.
        settings: beta and the rest of what is saved as implicit_prm.json with every checkpoint.
        reference: the frozen second model; None with `settings.reference` adapter_off or none.
        train_dataset, eval_dataset: `GroupDataset`s.
        args, processing_class, ...: as for transformers' Trainer. Batch sizes count prompts.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: TrainingArguments,
        loss: LossConfig,
        settings: Settings,
        reference: PreTrainedModel | None = None,
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
        options.setdefault("data_collator", GroupCollator(processing_class.pad_token_id or 0))
        beta = None if settings.reference == NONE else settings.beta
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            compute_metrics=partial(dev_metrics, beta=beta),
            **options,
        )
        self.loss, self.settings = loss, settings
        # The loss is divided by the units of the whole optimiser step here; transformers must not divide again.
        self.model_accepts_loss_kwargs = True
        self.reference = None
        if reference is not None:
            reference.requires_grad_(False)
            self.reference = self.accelerator.prepare_model(reference, evaluation_mode=True)
        self._kl: Tensor | None = None
        self._sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(2, dtype=torch.float64))

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of an optimiser step, and how many loss units they hold over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        units = sum(unit_count(batch["labels"], batch["groups"], self.loss) for batch in batches)
        self._kl = self._kl_baselines(self.model_wrapped, batches)
        total = self.accelerator.reduce(torch.tensor(float(units), device=self.args.device), reduction="sum")
        return batches, total

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Sum of the unit losses over their count in the optimiser step (over all processes)."""
        rewards, log_ratio = self._rewards(model, inputs)
        kl = self._kl if model.training else self._kl_baselines(model, [inputs])
        totals = LossInputs(head.outcome_rewards(rewards), inputs["labels"], inputs["groups"], kl)
        output = LOSSES[self.loss.name](totals, self.loss)
        # The mean over processes that DDP and FSDP take of gradients is undone, as the count is of all of them.
        units, processes = (num_items_in_batch, self.args.world_size) if model.training else (output.units, 1)
        loss = output.total * processes / max(float(units), 1.0)
        if model.training:
            self._count(totals, log_ratio.detach())
        return (loss, (rewards, output)) if return_outputs else loss

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Loss; [G, K, 2] outcome reward and lowest step reward with [G, 2] shares of the batch's loss sum and units;
        [G, K] labels. Absent responses are -100.
        """
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss, (rewards, output) = self.compute_loss(model, inputs, return_outputs=True)
        groups = inputs["groups"].cpu()
        shape = (int(groups.max()) + 1, int(groups.bincount().max()))
        values, labels = torch.full((*shape, 2), float(ABSENT)), torch.full(shape, ABSENT)
        for row, group in enumerate(groups.tolist()):
            column = int((groups[:row] == group).sum())
            mask = inputs["completion_mask"][row]
            step_of_token = inputs["step_of_token"][row][mask]
            steps, prefixes = head.step_rewards(rewards[row][mask], step_of_token, int(step_of_token.max()) + 1)
            values[group, column] = torch.stack([prefixes[-1], steps.min()])
            labels[group, column] = int(inputs["labels"][row])
        sums = torch.tensor([output.total.item(), output.units]).expand(shape[0], 2) / shape[0]
        device = self.args.device
        return loss.detach(), (values.to(device), sums.to(device)), labels.to(device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what was counted since the last training log, over all processes."""
        if "loss" in logs:
            for name in sorted(self._sums):
                total, count = self.accelerator.reduce(self._sums[name].to(self.args.device), reduction="sum").tolist()
                if count:
                    logs[name] = total / count
            self._sums.clear()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.settings.write(str(output_dir or self.args.output_dir))

    def _rewards(self, model: nn.Module, inputs: dict[str, Tensor], prefix: str = "") -> tuple[Tensor, Tensor]:
        """[R, T] token rewards and [R, T] log-ratio of the rows in `inputs`, reference always without gradient."""
        batch = {name: inputs[prefix + name] for name in ("input_ids", "attention_mask", "completion_mask")}
        policy = completion_logprobs(model, **batch, core=self.accelerator.unwrap_model(model))
        reference = None
        if self.settings.reference != NONE:
            with torch.no_grad(), self._reference(model) as (wrapped, core):
                reference = completion_logprobs(wrapped, **batch, core=core)
        log_ratio = head.token_log_ratio(policy, reference, batch["completion_mask"])
        return head.token_rewards(log_ratio, self.settings.beta), log_ratio

    @contextlib.contextmanager
    def _reference(self, model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
        """The model that plays the reference, as it is called and as it is inside its wrapper."""
        wrapped = model if self.reference is None else self.reference
        core = self.accelerator.unwrap_model(wrapped)
        with reference_model(core, None if self.reference is None else core):
            yield wrapped, core

    @torch.no_grad()
    def _kl_baselines(self, model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> Tensor | None:
        """What KTO subtracts, from every micro-batch of the step and every process; None for other losses."""
        if self.loss.name != "kto":
            return None
        sums, counts = (torch.zeros(2, dtype=torch.float64, device=self.args.device) for _ in range(2))
        for batch in batches:
            batch = self._prepare_inputs(batch)
            if self.loss.form == "unpaired":
                mismatched = self._rewards(model, batch, prefix="kl_")[0].sum(-1)
                sums += mismatched.sum().double()
                counts += len(mismatched)
                continue
            rewards = self._rewards(model, batch)[0].sum(-1)
            for side, rows in enumerate((~batch["labels"], batch["labels"])):  # each class against the other
                sums[side] += rewards[rows].sum().double()
                counts[side] += rows.sum()
        sums, counts = (self.accelerator.reduce(tensor, reduction="sum") for tensor in (sums, counts))
        return kl_baselines(sums, counts).float()

    def _count(self, inputs: LossInputs, log_ratio: Tensor) -> None:
        rewards, labels = inputs.rewards.detach(), inputs.labels
        chosen, rejected = pairs(labels, inputs.groups)
        margins = rewards[chosen] - rewards[rejected]
        observed = {
            "rewards/chosen": rewards[labels],
            "rewards/rejected": rewards[~labels],
            "rewards/margins": margins,
            "rewards/accuracies": (margins > 0).float(),
            # KL(pi_ref || pi_theta) in nats per response, if the responses were sampled from the reference.
            "kl": -log_ratio.sum(-1),
        }
        if self._kl is not None:
            observed["kto/baseline"] = self._kl
        for name, values in observed.items():
            self._sums[name] += torch.tensor([values.sum().item(), values.numel()], dtype=torch.float64)


def dev_metrics(prediction: EvalPrediction, beta: float | None = None) -> dict[str, float]:
    """Loss per unit, reward accuracy and margins over pairs, KL, and best-of-N over each prompt's responses.

    `beta` turns rewards back into nats for the KL of the reference from the policy; None where there is no reference.
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
    for name, scores in (("min", lowest), ("sum", outcome)):
        scores = scores.masked_fill(~present, -torch.inf)
        best = scores == scores.max(-1, keepdim=True).values  # equals share the pick
        metrics[f"best_of_n/{name}"] = ((best & correct).sum(-1) / best.sum(-1)).mean().item()
    return metrics


class JsonLog(TrainerCallback):
    """Every log of the run as a line of `log.jsonl`, whether or not a tracker is on."""

    def __init__(self, path: str) -> None:
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
