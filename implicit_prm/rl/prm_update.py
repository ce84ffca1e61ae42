"""Online updates of an implicit PRM: one optimiser step on the outcomes of a batch of rollouts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from implicit_prm.models import loading
from implicit_prm.models.forward import token_budget
from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.models.shared_prompt import open_prompt, pieces
from implicit_prm.models.source import ModelSource
from implicit_prm.rewards import implicit_reward
from implicit_prm.rewards.losses import LOSSES, LossInputs, accuracy_offset, rare_class_weight
from implicit_prm.rl.prime_config import PrimeConfig
from implicit_prm.rl.rollouts import RolloutGroup
from implicit_prm.training.group_trainer import mean_gradients
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.io import atomic_folder

OPTIMIZER_FILE = "optimizer.pt"


@dataclass(frozen=True)
class Targets:
    """What the PRM learns of N responses, the same in every process.

    Args:
        labels: [N] bool, whether the response is correct.
        offset: [N] float32, added to the logit; None for none.
        weight: [N] float32; 0 for a response that is not learned from.
    """

    labels: Tensor
    offset: Tensor | None
    weight: Tensor

    @classmethod
    def of(cls, outcomes: Tensor, groups: Tensor, used: Tensor, args: PrimeConfig) -> Targets:
        """Targets from outcomes.

        Args:
            outcomes: [N] outcome of each response, above 0.5 for a correct one; NaN if not graded.
            groups: [N] int64, the prompt of each response.
            used: [N] bool, whether the PRM may learn from the response.
            args: the options `prm_offset` and `prm_class_weight`.
        """
        used, labels = used & ~outcomes.isnan(), outcomes > 0.5
        offset, weight = torch.zeros(len(labels)), used.float()
        if args.prm_offset == "prompt_accuracy":
            offset[used] = accuracy_offset(labels[used], groups[used])
        if args.prm_class_weight == "rare":
            weight[used] = rare_class_weight(labels[used], groups[used])
        return cls(labels, None if args.prm_offset == "none" else offset, weight)

    @property
    def responses(self) -> int:
        """Number of responses that are learned from; 0 if all of them are correct, or none is."""
        learned = self.labels[self.weight > 0]
        return len(learned) if learned.any() and not learned.all() else 0


class PRMUpdater:
    """An implicit PRM with its optimiser.

    Args:
        prm: its policy has trainable float32 weights: all of them, or a LoRA adapter.
        args: the options `prm_*`.
        accelerator: of the trainer.

    Raises:
        ImplicitPRMError: weights in another dtype, in which small updates are lost, or a quantized policy without an
            adapter.
    """

    def __init__(self, prm: ImplicitPRM, args: PrimeConfig, accelerator: Accelerator) -> None:
        self.prm, self.args, self.accelerator = prm, args, accelerator
        self.loss: Any = args.prm_loss_config
        policy: Any = prm.policy
        adapted = hasattr(policy, "peft_config")
        for name, parameter in policy.named_parameters():
            parameter.requires_grad_("lora_" in name if adapted else True)
        self.parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        if any(parameter.dtype != torch.float32 for parameter in self.parameters):
            raise ImplicitPRMError(
                f"prm_update={args.prm_update}: the PRM's trained weights must be float32, small updates are lost in "
                "other types; open it with dtype='float32', or train an adapter"
            )
        self.optimizer = torch.optim.AdamW(self.parameters, lr=args.prm_optimizer_learning_rate, weight_decay=0.0)

    def step(
        self, groups: Sequence[RolloutGroup], references: Sequence[list[Tensor] | None], targets: Targets
    ) -> dict[str, float]:
        """Take one optimiser step on the mean loss over the responses of all processes.

        Args:
            groups: this process's share of the batch.
            references: of each group, the reference log-probabilities of its responses.
            targets: of the responses of all processes.

        Returns:
            Loss and gradient norm; nothing if there was no step, since the batch has only one kind of response.

        Raises:
            ImplicitPRMError: the gradient is not finite.
        """
        if not targets.responses:
            return {}
        self.optimizer.zero_grad()
        # Cancels the average over processes.
        scale = self.accelerator.num_processes / targets.responses
        loss = torch.zeros((), device=self.accelerator.device)
        for group, reference in zip(groups, references, strict=True):
            loss += self._gradients(group, reference, targets, scale)
        if dist.is_initialized():
            mean_gradients(self.prm.policy)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.args.prm_max_grad_norm).item()
        if not math.isfinite(norm):
            raise ImplicitPRMError(
                f"the gradient norm of the PRM is {norm}; use a smaller prm_learning_rate (it is "
                f"{self.args.prm_optimizer_learning_rate:g})"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"loss": self.accelerator.reduce(loss, reduction="mean").item(), "grad_norm": norm}

    def _gradients(self, group: RolloutGroup, reference: list[Tensor] | None, targets: Targets, scale: float) -> Tensor:
        """Add the gradients of a prompt's responses, piece by piece; return their loss. Both are times `scale`."""
        learned = [k for k, place in enumerate(group.places) if targets.weight[place] > 0]
        total = torch.zeros((), device=self.accelerator.device)
        if not learned:
            return total
        policy = self.prm.policy
        with self.accelerator.autocast():
            prompt = open_prompt(policy, group.prompt_ids)
        limit = self.args.prm_max_tokens or token_budget(policy.device, separable=True)
        for piece in pieces([len(group.responses[k]) for k in learned], limit, prompt.row_overhead):
            chosen = [learned[k] for k in piece]
            with self.accelerator.autocast():
                logprobs = prompt.logprobs([group.responses[k] for k in chosen])
            inputs = self._inputs(logprobs, group, chosen, reference, targets)
            loss = LOSSES[self.loss.name](inputs, self.loss).total * scale
            loss.backward()
            total += loss.detach()
        prompt.backward()
        return total

    def _inputs(
        self,
        logprobs: Tensor,
        group: RolloutGroup,
        chosen: list[int],
        reference: list[Tensor] | None,
        targets: Targets,
    ) -> LossInputs:
        """Inputs of the loss for some responses of a group, from their [K, T] log-probabilities."""
        device = logprobs.device
        lengths = torch.tensor([len(group.responses[k]) for k in chosen], device=device)
        mask = torch.arange(logprobs.shape[1], device=device) < lengths[:, None]
        known = None
        if reference is not None:
            flat = torch.cat([reference[k] for k in chosen]).to(device)
            known = torch.zeros_like(logprobs).masked_scatter(mask, flat)
        ratio = implicit_reward.token_log_ratio(logprobs, known, mask)
        rewards = implicit_reward.token_rewards(ratio, self.prm.metadata.beta)
        places = [group.places[k] for k in chosen]
        return LossInputs(
            rewards=implicit_reward.outcome_rewards(rewards),
            labels=targets.labels[places].to(device),
            groups=torch.zeros(len(places), dtype=torch.long, device=device),
            token_rewards=rewards,
            completion_mask=mask,
            offset=None if targets.offset is None else targets.offset[places].to(device),
            weight=targets.weight[places].to(device),
        )

    def save(self, folder: Path, with_optimizer: bool) -> None:
        """Write the PRM into `folder`, as `ImplicitPRM.from_pretrained` opens it, all of it or nothing.

        Args:
            folder: inside the policy's, which is the reference if `prm_reference=behaviour`.
            with_optimizer: also write the state of the optimiser, to resume from.
        """
        metadata = self.prm.metadata
        if self.args.prm_reference == "behaviour":  # relative, so that the policy's folder can move
            metadata = replace(metadata, reference="../", reference_revision=None)
        loss = {**asdict(self.loss), "offset": self.args.prm_offset, "class_weight": self.args.prm_class_weight}
        with atomic_folder(folder, replace_old=True) as unfinished:
            self.prm.save_pretrained(unfinished)
            replace(metadata, loss=loss).write(unfinished)
            if with_optimizer:
                torch.save(self.optimizer.state_dict(), unfinished / OPTIMIZER_FILE)

    def load(self, folder: Path) -> None:
        """Continue with the weights and the optimiser state of a folder that `save` wrote.

        Raises:
            ImplicitPRMError: there is no such folder, or it has no optimiser state.
        """
        if not (folder / OPTIMIZER_FILE).exists():
            raise ImplicitPRMError(
                f"{folder}: no state of the PRM's optimiser; resume from a checkpoint of a run with the same prm_update"
            )
        policy, _ = loading.open_policy(ModelSource.resolve(folder), self.prm.metadata)
        self.prm.policy.load_state_dict(policy.state_dict())
        state = torch.load(folder / OPTIMIZER_FILE, map_location=self.accelerator.device, weights_only=True)
        self.optimizer.load_state_dict(state)
