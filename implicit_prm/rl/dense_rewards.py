"""Token rewards of a batch of rollouts, computed by all processes together; the PRM may learn from the batch, too."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from implicit_prm.models.forward import token_budget
from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.models.shared_prompt import response_logprobs
from implicit_prm.rewards.step_splitting import split_steps
from implicit_prm.rl.prime_config import PrimeConfig
from implicit_prm.rl.prm_update import PRMUpdater, Targets
from implicit_prm.rl.prompt_check import PromptCheck
from implicit_prm.rl.rollouts import RolloutBatch, RolloutGroup, end_tokens
from implicit_prm.rl.token_rewards import TokenRewards, prm_token_rewards, scorer_token_rewards
from implicit_prm.rl.token_steps import decoded
from implicit_prm.types import ImplicitPRMError, Prompt, Scorer, StepLabels

StepChecker = Callable[[Prompt, str], Sequence[bool]]


class DenseRewards:
    """Scores rollouts by token.

    Every process scores, and learns from, whole prompts, whichever process sampled their responses: the prompt is
    encoded once, and the work is shared evenly.

    Args:
        prm: an implicit PRM, or another scorer, whose step rewards are put at the last token of each step.
        args: the options `prm_*`.
        accelerator: of the trainer.
        tokenizer: of the policy.
        policy: returns the policy, for the tokens that end a response and for `prm_reference=behaviour`.
        step_checker: says of a prompt and a response which steps are right, for the log.

    Raises:
        ImplicitPRMError: a PRM with another tokenizer than the policy, or options that only an implicit PRM has.
    """

    def __init__(
        self,
        prm: ImplicitPRM | Scorer,
        args: PrimeConfig,
        accelerator: Accelerator,
        tokenizer: PreTrainedTokenizerBase,
        policy: Callable[[], Any],
        step_checker: StepChecker | None = None,
    ) -> None:
        self.args, self.accelerator, self.tokenizer, self.policy = args, accelerator, tokenizer, policy
        self.step_checker = step_checker
        self.prm = prm if isinstance(prm, ImplicitPRM) else None
        self.updater: PRMUpdater | None = None
        if self.prm is None:
            for option in ("prm_update", "prm_reference", "prm_max_tokens"):
                if (value := getattr(args, option)) not in ("none", "frozen", None):
                    raise ImplicitPRMError(f"{option}={value} needs an ImplicitPRM, got {type(prm).__name__}")
            if args.credit == "value":
                raise ImplicitPRMError(
                    f"credit=value needs an ImplicitPRM, whose rewards add up to log-odds, got {type(prm).__name__}"
                )
            self._score_steps = scorer_token_rewards(prm, tokenizer, end_tokens(policy(), tokenizer))
            return
        if self.prm.tokenizer.get_vocab() != tokenizer.get_vocab():
            raise ImplicitPRMError("the PRM has another vocabulary than the policy; use one of the same model family")
        if args.credit == "value":
            _warn_unless_log_odds(self.prm)
        self.check_prompt = PromptCheck(self.prm)
        self.prm.to(accelerator.device)
        self.prm.policy.eval()
        if args.prm_update != "none":
            self.updater = PRMUpdater(self.prm, args, accelerator)

    def __call__(self, batch: RolloutBatch, targets: Targets) -> tuple[list[TokenRewards], dict[str, float]]:
        """Score a batch, and update the PRM before or after.

        Args:
            batch: the rollouts of all processes.
            targets: what the PRM learns of them.

        Returns:
            The rewards of every rollout, in order, and metrics of the update. The same in every process.
        """
        rank, size = self.accelerator.process_index, self.accelerator.num_processes
        mine = [group for group in batch.groups[rank::size] if group.responses]
        references = [self._reference(group) for group in mine]
        metrics: dict[str, float] = {}
        if self.args.prm_update == "before":
            metrics = self._update(mine, references, targets)
        scored = [
            (place, one)
            for group, reference in zip(mine, references, strict=True)
            for place, one in zip(group.places, self._rewards(group, reference), strict=True)
        ]
        if self.args.prm_update == "after":
            metrics = self._update(mine, references, targets)
        rewards = dict(gather_object(scored))
        nothing = TokenRewards([], [])
        return [rewards.get(place, nothing) for place in range(len(batch.rollouts))], metrics

    def _update(
        self, groups: list[RolloutGroup], references: list[list[Tensor] | None], targets: Targets
    ) -> dict[str, float]:
        return {} if self.updater is None else self.updater.step(groups, references, targets)

    def _rewards(self, group: RolloutGroup, reference: list[Tensor] | None) -> list[TokenRewards]:
        if self.prm is None:
            rewards = self._score_steps(group)
        else:
            self.check_prompt(group.prompt, group.prompt_ids)
            with self.accelerator.autocast():
                rewards = prm_token_rewards(self.prm, group, reference, self.args.prm_max_tokens)
        if self.step_checker is None:
            return rewards
        texts = [decoded(self.tokenizer, ids)[0] for ids in group.responses]
        labels = [StepLabels(self.step_checker(group.prompt, text)) for text in texts]
        if self.prm is not None:
            for text, some in zip(texts, labels, strict=True):
                some.require_steps(len(split_steps(text, self.prm.metadata.text.steps)))
        return [replace(one, step_labels=some) for one, some in zip(rewards, labels, strict=True)]

    @torch.no_grad()
    def _reference(self, group: RolloutGroup) -> list[Tensor] | None:
        """[T] reference log-probabilities of each response; None without a reference."""
        if self.prm is None:
            return None
        limit = self.args.prm_max_tokens
        with self.accelerator.autocast():
            if self.args.prm_reference == "frozen":
                return self.prm.reference_logprobs(group.prompt_ids, group.responses, max_tokens=limit)
            policy = self.policy()
            training = policy.training
            policy.eval()
            found = response_logprobs(
                policy, group.prompt_ids, group.responses, limit or token_budget(self.accelerator.device)
            )
            policy.train(training)
            return found


def _warn_unless_log_odds(prm: ImplicitPRM) -> None:
    loss = prm.metadata.loss.get("name", "ce")
    if loss != "ce":
        warnings.warn(
            "credit=value takes the PRM's rewards for log-odds of a correct answer, as cross-entropy trains them; this "
            f"PRM was trained with loss={loss}. With gae_lambda=1 it adds no bias to the gradient, but maybe noise",
            stacklevel=3,
        )
