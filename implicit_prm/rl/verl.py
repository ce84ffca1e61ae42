"""A reward manager for verl: process rewards at every token of a response, with the outcome at the last one.

verl loads the class by itself, with `reward.reward_manager.source=importlib`; docs/rl.md has all that must be set. Its
workers score one response at a time.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from implicit_prm.config import Dtype, from_mapping
from implicit_prm.config.validation import check_range
from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.rl.advantages import Credit
from implicit_prm.rl.prompt_check import PromptCheck
from implicit_prm.rl.rollouts import RolloutGroup
from implicit_prm.rl.token_rewards import at_step_ends, lowest_credit, prm_token_rewards
from implicit_prm.types import ImplicitPRMError


@dataclass
class RewardOptions:
    """The options in verl's `reward.reward_kwargs`.

    Args:
        checkpoint: Folder or hub id of a checkpoint of `ipr-train`.
        process_coef: Weight of the process rewards; that of the outcome is 1.
        granularity: `step` puts the reward of a step at its last token, `token` gives every token its own.
        credit: `min` gives rewards whose sum from a token on is the lowest process reward from there on, which is then
            its return; `sum` the process rewards themselves.
        device: Where the PRM computes; None for a GPU if the worker has one, else the CPU.
        dtype: Type of the weights.
    """

    checkpoint: str
    process_coef: float = 0.2
    granularity: Literal["step", "token"] = "step"
    credit: Credit = "min"
    device: str | None = None
    dtype: Dtype = "float32"

    def validate(self) -> None:
        check_range(self, "process_coef", at_least=0, where="reward.reward_kwargs.")


class ImplicitPRMRewardManager(RewardManagerBase):
    """Dense rewards of an implicit PRM for verl.

    The reward of a response is a list with a number for each of its tokens: `process_coef` times the process reward,
    and at the last token also the outcome, which the reward function gives.

    Args:
        config: verl's, with `RewardOptions` in `reward.reward_kwargs`.
        tokenizer: of the policy.
        compute_score: the reward function of the outcome.
        others: other arguments of verl's managers, which are not used.

    Raises:
        ImplicitPRMError: unknown or invalid options, or a PRM with another vocabulary than the policy.
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Callable[..., Any], **others: Any) -> None:
        super().__init__(config, tokenizer, compute_score)
        self.compute_score = compute_score
        given = config.reward.get("reward_kwargs") or {}
        self.options = from_mapping(RewardOptions, dict(given), "reward.reward_kwargs.")
        self.prm = ImplicitPRM.from_pretrained(
            self.options.checkpoint, dtype=self.options.dtype, device=self.options.device
        )
        if self.prm.tokenizer.get_vocab() != tokenizer.get_vocab():
            raise ImplicitPRMError("the PRM has another vocabulary than the policy; use one of the same model family")
        self._check_prompt = PromptCheck(self.prm)
        self._scoring = ThreadPoolExecutor(1)  # verl asks for many responses at once, which may not fit in memory

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The rewards of one response.

        Args:
            data: a batch of one response.

        Returns:
            `reward_score`, a reward for each token of the response, and `reward_extra_info` with the outcome as `acc`
            and the sum, or the lowest, of the process rewards as `process_reward`.
        """
        item = data[0]
        prompt_ids, response_ids = _valid_ids(item.batch)
        if (chat := item.non_tensor_batch.get("raw_prompt")) is not None:
            self._check_prompt(list(chat), prompt_ids)
        loop = asyncio.get_running_loop()
        scored = loop.run_in_executor(self._scoring, self._process_rewards, prompt_ids, response_ids)
        outcome, rewards = await self._outcome(item.non_tensor_batch, response_ids), await scored
        extra = {"acc": outcome, "process_reward": sum(rewards)}
        rewards = [self.options.process_coef * one for one in rewards]
        if rewards:
            rewards[-1] += outcome
        return {"reward_score": rewards, "reward_extra_info": extra}

    @classmethod
    def assemble_rm_scores(cls, data: Any, scores: Sequence[Sequence[float]]) -> Tensor:
        """[B, T] the rewards of a batch, zero outside the responses.

        Args:
            data: the batch.
            scores: the rewards of each response, as `run_single` returns them.
        """
        rewards = torch.zeros(data.batch["responses"].shape, dtype=torch.float32)
        for row, values in zip(rewards, scores, strict=True):
            row[: len(values)] = torch.tensor(values)
        return rewards

    async def _outcome(self, columns: Any, response_ids: list[int]) -> float:
        text = self.tokenizer.decode(response_ids, skip_special_tokens=True)
        grade = partial(
            self.compute_score,
            data_source=columns["data_source"],
            solution_str=text,
            ground_truth=columns["reward_model"]["ground_truth"],
            extra_info=columns.get("extra_info", {}),
        )
        found = await asyncio.get_running_loop().run_in_executor(None, grade)
        if inspect.isawaitable(found):
            found = await found
        return float(found["score"] if isinstance(found, dict) else found)

    def _process_rewards(self, prompt_ids: list[int], response_ids: list[int]) -> list[float]:
        if not response_ids:
            return []
        group = RolloutGroup(0, "", prompt_ids, [0], [response_ids])
        (scored,) = prm_token_rewards(self.prm, group)
        if self.options.granularity == "step":
            return at_step_ends(scored, self.options.credit)
        return lowest_credit(scored.rewards) if self.options.credit == "min" else scored.rewards


def _valid_ids(batch: Any) -> tuple[list[int], list[int]]:
    """The prompt, padded on the left, and the response, padded on the right, without padding."""
    width = len(batch["prompts"])
    mask = batch["attention_mask"].bool()
    return batch["prompts"][mask[:width]].tolist(), batch["responses"][mask[width:]].tolist()
