"""RewardModelTrainer: binary cross-entropy at the positions where an explicit reward model is read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import DistributedType
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from implicit_prm.baselines.layouts import read_positions
from implicit_prm.baselines.lora import merged
from implicit_prm.baselines.reward_model import Reader, Row
from implicit_prm.models.checkpoint import BaselineMetadata
from implicit_prm.training import GroupTrainer, TrainingGroup, dev_metrics
from implicit_prm.training.metrics import ABSENT
from implicit_prm.types import ImplicitPRMError


class RewardModelTrainer(GroupTrainer):
    """Trains an explicit reward model with binary cross-entropy on the labels of its steps.

    The cross-entropy of two tokens is the binary one of the difference of their logits, so one loss serves all kinds.
    It is a sum over labelled positions, divided by their number in the whole optimiser step.

    Args:
        model: with a value head, or a causal LM for `next_token`.
        args: as for `GroupTrainer`.
        metadata: saved as baseline.json with every checkpoint.
        max_tokens: as for `GroupTrainer`.
        processing_class: the tokenizer.
        options: other arguments of `GroupTrainer`. The datasets are `GroupDataset`s with step labels.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: TrainingArguments,
        metadata: BaselineMetadata,
        max_tokens: int | None = None,
        *,
        processing_class: PreTrainedTokenizerBase,
        **options: Any,
    ) -> None:
        metrics = partial(dev_metrics, outcome_name="last")
        super().__init__(model, args, metadata, max_tokens, metrics, processing_class=processing_class, **options)
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise ImplicitPRMError(
                "DeepSpeed is not supported for explicit reward models; use one process, DDP or FSDP2 (launch with "
                "configs/accelerate/fsdp2.yaml)"
            )
        if self.is_fsdp_enabled and isinstance(self.model, PeftModel):
            raise ImplicitPRMError("model.lora is not supported with FSDP for explicit reward models; use DDP")
        self.reader = Reader(metadata, processing_class)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; at the end of training, an adapter is merged into its base first."""
        if not _internal_call and isinstance(self.model, PeftModel):
            self.model = self.model_wrapped = merged(self.model)
        super().save_model(output_dir, _internal_call)

    def units(self, group: TrainingGroup) -> float:
        """Number of labelled positions."""
        return float((~_targets(group, range(len(group.rows))).isnan()).sum())

    def group_tokens(self, group: TrainingGroup) -> int:
        """Tokens of prompt and response, for every response: the prompt is encoded with each."""
        return sum(_lengths(group))

    def group_gradients(self, model: nn.Module, group: TrainingGroup, scale: float) -> Tensor:
        """Add the gradients of a group's loss, piece by piece, and return its detached value; all times `scale`."""
        value = torch.zeros((), device=self.args.device)
        for piece in self.pieces(model, _lengths(group)):
            logits, targets = self._read(model, group, piece)
            known = ~targets.isnan()
            # A piece without labels has a backward pass too: under FSDP every process must run it.
            loss = F.binary_cross_entropy_with_logits(logits[known], targets[known], reduction="sum") * scale
            self._backward(loss + 0.0 * logits.sum())
            value += loss.detach()
            self._observe(logits.detach()[known], targets[known])
        return value

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Evaluate a micro-batch of G groups with at most K responses.

        Returns:
            The loss; [G, K, 2] last and lowest logit of each response, and [G, 2] loss sum and labelled positions of
            each group; [G, K] labels of the outcomes. Absent responses, and ones without a step, are -100.
        """
        groups: list[TrainingGroup] = inputs["groups"]
        shape = (len(groups), max(1, *(len(group.rows) for group in groups)))
        values, labels = torch.full((*shape, 2), float(ABSENT)), torch.full(shape, ABSENT)
        sums = torch.zeros(len(groups), 2)
        for place, group in enumerate(groups):
            for piece in self.pieces(model, _lengths(group)):
                logits, targets = (tensor.cpu() for tensor in self._read(model, group, piece))
                known = ~targets.isnan()
                loss = F.binary_cross_entropy_with_logits(logits[known], targets[known], reduction="sum")
                sums[place] += torch.tensor([loss.item(), float(known.sum())])
                sizes = [len(_targets(group, [column])) for column in piece]
                for column, some in zip(piece, logits.split(sizes), strict=True):
                    if len(some):
                        values[place, column] = torch.stack([some[-1], some.min()])
                        labels[place, column] = int(group.labels[column])
        device, (total, units) = self.args.device, sums.sum(0).tolist()
        loss = torch.tensor(total / max(units, 1.0), device=device)
        return loss, (values.to(device), sums.to(device)), labels.to(device)

    def _read(self, model: nn.Module, group: TrainingGroup, piece: Sequence[int]) -> tuple[Tensor, Tensor]:
        """[N] logits at the read positions of some responses, and [N] targets, NaN if there is none."""
        rows: list[Row] = [
            (
                group.prompt_ids,
                group.rows.ids[place],
                read_positions(group.step_of_token[place], len(_targets(group, [place]))),
            )
            for place in piece
        ]
        core = self.accelerator.unwrap_model(model)
        with self.compute_loss_context_manager():
            # Not through DDP's wrapper, whose hooks expect one backward pass per step. FSDP's hooks are in the model.
            logits = self.reader.logits(core, rows or [(group.prompt_ids, [], [])], core)
        return logits, _targets(group, piece).to(logits.device)

    def observed_names(self) -> list[str]:
        return ["accuracy", "probability/good", "probability/bad"]

    def _observe(self, logits: Tensor, targets: Tensor) -> None:
        good = targets > 0.5
        self.observe("accuracy", ((logits > 0) == good).float())
        self.observe("probability/good", logits.sigmoid()[good])
        self.observe("probability/bad", logits.sigmoid()[~good])


def _targets(group: TrainingGroup, places: Sequence[int]) -> Tensor:
    """[N] step labels of some responses, one after the other; NaN for none."""
    assert group.step_labels is not None  # the dataset was made with step labels
    return torch.tensor([label for place in places for label in group.step_labels[place]], dtype=torch.float32)


def _lengths(group: TrainingGroup) -> list[int]:
    return [len(group.prompt_ids) + len(ids) for ids in group.rows.ids]
