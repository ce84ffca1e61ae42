"""RewardModelTrainer: binary cross-entropy at the read positions of prompts with all of their responses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from implicit_prm.baselines.checkpoint import BaselineSettings
from implicit_prm.baselines.layouts import read_positions
from implicit_prm.baselines.reward_model import Reader, Row
from implicit_prm.data.tokenization import EncodedGroup, TrainingResponse
from implicit_prm.training import GroupTrainer, dev_metrics
from implicit_prm.training.metrics import ABSENT
from implicit_prm.types import ImplicitPRMError

# What a process holds that got fewer prompts than the others.
_NOTHING = EncodedGroup("", [0, 0], [], [])


class LabelledGroups(Dataset):
    """Groups that a `Layout` made, as they are. The place behind the last one is an empty group."""

    def __init__(self, groups: Sequence[EncodedGroup]) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, place: int) -> EncodedGroup:
        return _NOTHING if place == len(self.groups) else self.groups[place]


class RewardModelTrainer(GroupTrainer):
    """Fits the logits at the read positions to their targets with binary cross-entropy.

    Between two tokens alone cross-entropy is that of the difference of their logits, so one loss serves all kinds. It
    is a sum over labelled positions, divided by their number in the whole optimiser step.

    Args:
        model: with a value head, or a causal LM for `next_token`.
        settings: what is saved as baseline.json with every checkpoint.
        train_dataset, eval_dataset: `LabelledGroups`.
        max_tokens, args, processing_class, ...: as for `GroupTrainer`.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: TrainingArguments,
        settings: BaselineSettings,
        max_tokens: int | None = None,
        *,
        processing_class: PreTrainedTokenizerBase,
        **options: Any,
    ) -> None:
        metrics = partial(dev_metrics, outcome_name="last")
        super().__init__(model, args, max_tokens, metrics, processing_class=processing_class, **options)
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise ImplicitPRMError(
                "DeepSpeed: explicit reward models are trained by one process, DDP or FSDP2; launch them with "
                "configs/accelerate/fsdp2.yaml"
            )
        self.settings = settings
        self.reader = Reader(settings, processing_class)

    def units(self, group: EncodedGroup) -> float:
        """Labelled positions."""
        return sum(float((~_targets(one).isnan()).sum()) for one in group.responses)

    def group_tokens(self, group: EncodedGroup) -> int:
        """The prompt counts with each response, as it is encoded."""
        return sum(group.lengths)

    def group_gradients(self, model: nn.Module, group: EncodedGroup, scale: float) -> Tensor:
        """Adds the gradients of a group's loss, piece by piece, and returns its detached value; all times `scale`."""
        value = torch.zeros((), device=self.args.device)
        for piece in self.pieces(model, group.lengths):
            logits, targets = self._read(model, group, piece)
            known = ~targets.isnan()
            # Nothing labelled is a loss of zero all the same: under FSDP all processes run as many passes.
            loss = F.binary_cross_entropy_with_logits(logits[known], targets[known], reduction="sum") * scale
            self._backward(loss + 0.0 * logits.sum())
            value += loss.detach()
            self._observe(logits.detach()[known], targets[known])
        return value

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Loss; [G, K, 2] last and lowest logit with [G, 2] loss sum and labelled positions; [G, K] labels of outcomes.

        Absent responses, and ones without a step, are -100.
        """
        groups: list[EncodedGroup] = inputs["groups"]
        shape = (len(groups), max(1, *(len(group.responses) for group in groups)))
        values, labels = torch.full((*shape, 2), float(ABSENT)), torch.full(shape, ABSENT)
        sums = torch.zeros(len(groups), 2)
        for place, group in enumerate(groups):
            for piece in self.pieces(model, group.lengths):
                logits, targets = (tensor.cpu() for tensor in self._read(model, group, piece))
                known = ~targets.isnan()
                loss = F.binary_cross_entropy_with_logits(logits[known], targets[known], reduction="sum")
                sums[place] += torch.tensor([loss.item(), float(known.sum())])
                sizes = [len(_targets(group.responses[column])) for column in piece]
                for column, some in zip(piece, logits.split(sizes), strict=True):
                    if len(some):
                        values[place, column] = torch.stack([some[-1], some.min()])
                        labels[place, column] = int(group.labels[column])
        device, (total, units) = self.args.device, sums.sum(0).tolist()
        loss = torch.tensor(total / max(units, 1.0), device=device)
        return loss, (values.to(device), sums.to(device)), labels.to(device)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.settings.write(str(output_dir or self.args.output_dir))

    def _read(self, model: nn.Module, group: EncodedGroup, piece: Sequence[int]) -> tuple[Tensor, Tensor]:
        """[N] logits at the read positions of some responses, and [N] their targets."""
        responses = [group.responses[place] for place in piece]
        rows: list[Row] = [
            (group.prompt_ids, one.ids, read_positions(one.step_of_token, len(one.step_labels or [])))
            for one in responses
        ]
        core = self.accelerator.unwrap_model(model)
        with self.compute_loss_context_manager():
            # DDP's own hooks want one backward pass, so it is the model inside that runs; FSDP's work is in the model.
            logits = self.reader.logits(core, rows or [(group.prompt_ids, [], [])], core)
        targets = torch.cat([torch.zeros(0), *map(_targets, responses)])
        return logits, targets.to(logits.device)

    def observed_names(self) -> list[str]:
        return ["accuracy", "probability/good", "probability/bad"]

    def _observe(self, logits: Tensor, targets: Tensor) -> None:
        good = targets > 0.5
        self.observe("accuracy", ((logits > 0) == good).float())
        self.observe("probability/good", logits.sigmoid()[good])
        self.observe("probability/bad", logits.sigmoid()[~good])


def _targets(response: TrainingResponse) -> Tensor:
    return torch.tensor(response.step_labels, dtype=torch.float32)
