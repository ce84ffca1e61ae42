"""Losses on implicit rewards: dpo, kto, nca and ce of arXiv 2412.01981, prefix of arXiv 2604.13197, and steps.

A loss sees rewards (beta already applied), labels, and which prompt each response belongs to. It knows no model, no
tokenizer and no device logic. It returns a *sum* over its units (pairs, responses or groups) and their count, so that
whoever calls it can divide by the count over every micro-batch and process of an optimiser step: the gradient then does
not depend on how a batch was cut.

Every loss reads the same reward, r = beta * sum of token log-ratios, so the step rewards come out of each of them. Most
see only the sum; `prefix` and `steps` see its terms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from implicit_prm.config import CEConfig, DPOConfig, KTOConfig, LossConfig, NCAConfig, PrefixConfig, StepsConfig
from implicit_prm.rewards import implicit_reward


@dataclass
class LossInputs:
    """Everything a loss may look at. R responses, T tokens, S steps.

    rewards: [R] float32, r(y) = beta * sum log-ratio. Example: tensor([0.3, -0.1, 0.2])
    labels: [R] bool, is the final answer right? Example: tensor([True, False, True])
    groups: [R] int64, which prompt a response belongs to. Example: tensor([0, 0, 1])
    kl: [2] float32, what KTO subtracts from desirable and from undesirable rewards; detached. Zero for other losses.
    token_rewards: [R, T] float32, what `rewards` are the sums of, zero where there is no token of the response.
    completion_mask: [R, T] bool, is there one?
    step_of_token: [R, T] int64, the step that each token belongs to.
    step_labels: [R, S] float32 in [0, 1], is the step right? NaN where nobody said, and behind a response's last step.
    """

    rewards: Tensor
    labels: Tensor
    groups: Tensor
    kl: Tensor | None = None
    token_rewards: Tensor | None = None
    completion_mask: Tensor | None = None
    step_of_token: Tensor | None = None
    step_labels: Tensor | None = None


@dataclass
class LossOutput:
    """total: the sum of the unit losses (differentiable, also when there is no unit); units: how many were summed."""

    total: Tensor
    units: float


def pairs(labels: Tensor, groups: Tensor, pairing: str = "all") -> tuple[Tensor, Tensor]:
    """Indices [P], [P] of every correct and incorrect response of the same prompt that form a pair.

    `all` is the full cross product (the official training code); `one_to_one` pairs the i-th correct with the i-th
    incorrect response of the prompt (the paper's text), so that a prompt gives min(correct, incorrect) pairs.
    """
    same = groups[:, None] == groups[None, :]
    mixed = same & labels[:, None] & ~labels[None, :]
    if pairing == "one_to_one":
        rank = _rank_within_class(labels, same)
        mixed = mixed & (rank[:, None] == rank[None, :])
    chosen, rejected = mixed.nonzero(as_tuple=True)
    return chosen, rejected


def _rank_within_class(labels: Tensor, same: Tensor) -> Tensor:
    """[R] how many earlier responses share both prompt and label."""
    alike = same & (labels[:, None] == labels[None, :])
    return alike.tril(-1).sum(-1)


def dpo(inputs: LossInputs, config: DPOConfig) -> LossOutput:
    """-log sigmoid(r_w - r_l) over pairs (Rafailov et al., arXiv 2305.18290, Equation 7)."""
    chosen, rejected = pairs(inputs.labels, inputs.groups, config.pairing)
    margins = inputs.rewards[chosen] - inputs.rewards[rejected]
    return _summed(-F.logsigmoid(margins), inputs)


def nca(inputs: LossInputs, config: NCAConfig) -> LossOutput:
    """Noise contrastive alignment (Chen et al., arXiv 2402.05369).

    `form="pair"`, over pairs: -log sigmoid(r_w) - 1/2 log sigmoid(-r_w) - 1/2 log sigmoid(-r_l). The first term wants
    r_w high and the second wants it low: the loss is not monotone in r_w, its minimum over r_w alone lies at
    sigmoid(r_w) = 2/3, and it may rise while training works.
    `form="group"`, over prompts with both kinds of responses: K responses with weights 1/(number correct) on the
    correct ones, -sum_i [w_i log sigmoid(r_i) + 1/K log sigmoid(-r_i)]; the same as `pair` for one of each.
    """
    rewards = inputs.rewards
    if config.form == "pair":
        chosen, rejected = pairs(inputs.labels, inputs.groups, config.pairing)
        pull = -F.logsigmoid(rewards[chosen])
        push = -0.5 * F.logsigmoid(-rewards[chosen]) - 0.5 * F.logsigmoid(-rewards[rejected])
        return _summed(pull + push, inputs)
    same, mixed = _mixed(inputs)
    correct = inputs.labels & mixed
    weight = correct / (same & inputs.labels[None, :]).sum(-1).clamp(min=1)
    terms = -weight * F.logsigmoid(rewards) - mixed / same.sum(-1) * F.logsigmoid(-rewards)
    units = (mixed / same.sum(-1)).sum().round().item()
    return LossOutput(_anchored(terms.sum(), inputs), units)


def kto(inputs: LossInputs, config: KTOConfig) -> LossOutput:
    """KTO (Ethayarajh et al., arXiv 2402.01306): over responses, each against a baseline z, without any pair.

    Desirable: weight_D * (1 - sigmoid(r - z)); undesirable: weight_U * (1 - sigmoid(z - r)). `form="unpaired"` takes
    beta * max(0, KL) for z on both sides, the KL estimated on mismatched prompts and responses; `form="paired"` (the
    first, "vanilla" form) takes the other class' mean reward, over prompts that have both. `inputs.kl` brings them.
    """
    if inputs.kl is None:
        raise ValueError("kto needs inputs.kl, the baselines of the desirable and of the undesirable rewards")
    keep = _mixed(inputs)[1] if config.form == "paired" else torch.ones_like(inputs.labels)
    kl = inputs.kl.detach()
    desirable = config.desirable_weight * torch.sigmoid(kl[0] - inputs.rewards)
    undesirable = config.undesirable_weight * torch.sigmoid(inputs.rewards - kl[1])
    return _summed(torch.where(inputs.labels, desirable, undesirable)[keep], inputs)


def ce(inputs: LossInputs, config: CEConfig) -> LossOutput:
    """Cross-entropy of the label, with the reward as the logit (arXiv 2412.01981, Equation 5, with its minus sign).

    The threshold of every prompt is then zero, which correct responses hardly get above: of responses drawn from the
    reference the mean reward is -beta * KL(pi_ref || pi_theta) <= 0, and that of a prompt's correct ones at most
    beta * log(1 / accuracy). `offset` gives each prompt a threshold of its own:

    `group_mean`: the logit is r less the mean r of the prompt's responses. The gradient goes through the mean, so that
    the derivatives of a group sum to zero and a shift of all its rewards changes nothing. A detached mean would push
    the whole group by sum_i [sigmoid(r_i - mean) - l_i], which no shift of the rewards brings to zero. Prompts of one
    kind are left out: their rewards could only be pulled together.
    `prompt_accuracy`: the logit is r + log[p / (1 - p)], p the share of correct ones among the prompt's responses, at
    least half a response away from 0 and 1 (the boundary that arXiv 2604.13197 adapts to each prompt). The reward is
    what the response adds to the log-odds of being right, and at r = 0 the derivatives of a mixed group sum to zero.
    """
    logits, labels = inputs.rewards + _offset(inputs, config.offset), inputs.labels.float()
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return _summed(losses[_mixed(inputs)[1]] if config.offset == "group_mean" else losses, inputs)


def prefix(inputs: LossInputs, config: PrefixConfig) -> LossOutput:
    """Cross-entropy of the label at every prefix of a response (IPVRM, arXiv 2604.13197): the mean over its tokens t of

        -log sigmoid(v_t - margin) where it is correct, -log sigmoid(-v_t - margin) where not,    v_t = q_t / t.

    v_t is the mean reward of the first t tokens. Summed over responses.
    """
    if inputs.token_rewards is None or inputs.completion_mask is None:
        raise ValueError("prefix needs inputs.token_rewards and inputs.completion_mask, the reward's terms")
    mask = inputs.completion_mask
    values = implicit_reward.prefix_values(inputs.token_rewards) / mask.cumsum(-1).clamp(min=1)
    losses = -F.logsigmoid(torch.where(inputs.labels[:, None], values, -values) - config.margin)
    return _summed(losses.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1).clamp(min=1), inputs)


def steps(inputs: LossInputs, config: StepsConfig) -> LossOutput:
    """Squared error between sigmoid(step reward) and the step's label, over labelled steps.

    The second stage of arXiv 2412.01981 as its authors' code has it (the paper prints another form, whose minimum for a
    wrong step lies at a reward of 0, not below). Labels may lie between 0 and 1.
    """
    if inputs.token_rewards is None or inputs.step_of_token is None or inputs.step_labels is None:
        raise ValueError("steps needs inputs.token_rewards, inputs.step_of_token and inputs.step_labels")
    labels = inputs.step_labels
    rewards = implicit_reward.step_sums(inputs.token_rewards, inputs.step_of_token, labels.shape[1])
    known = ~labels.isnan()
    return _summed((torch.sigmoid(rewards[known]) - labels[known]).square(), inputs)


LOSSES: dict[str, Callable[[LossInputs, Any], LossOutput]] = {
    "dpo": dpo,
    "kto": kto,
    "nca": nca,
    "ce": ce,
    "prefix": prefix,
    "steps": steps,
}


def kl_baselines(sums: Tensor, counts: Tensor) -> Tensor:
    """[2] what KTO subtracts: max(0, sum / count) each, 0 where nothing was counted.

    Sums and counts are added up over all processes first, so that a process without positives, or with fewer rows,
    neither fails nor weighs as much as the others.
    """
    return (sums / counts.clamp(min=1)).clamp(min=0).detach()


def unit_count(labels: Tensor, groups: Tensor, config: LossConfig, step_labels: Tensor | None = None) -> float:
    """How many units the loss will sum over these responses: known from the labels alone, before any forward pass."""
    token = torch.zeros(len(labels), 1, device=labels.device)  # of each response, where one is as good as many
    kl = torch.zeros(2, device=labels.device)
    inputs = LossInputs(token[:, 0], labels, groups, kl, token, token == 0, token.long(), step_labels)
    return LOSSES[config.name](inputs, config).units


def _offset(inputs: LossInputs, how: str) -> Tensor | float:
    """[R] what is added to each reward to make it cross-entropy's logit."""
    if how == "none":
        return 0.0
    same = inputs.groups[:, None] == inputs.groups[None, :]
    size = same.sum(-1)
    if how == "group_mean":  # no matrix product, which autocast would round
        return -torch.where(same, inputs.rewards[None, :], 0.0).sum(-1) / size
    half = 0.5 / size
    return ((same & inputs.labels[None, :]).sum(-1) / size).clamp(half, 1 - half).logit()


def _mixed(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """[R, R] same prompt, and [R] does the response's prompt have both correct and incorrect ones?"""
    same = inputs.groups[:, None] == inputs.groups[None, :]
    return same, (same & inputs.labels[None, :]).any(-1) & (same & ~inputs.labels[None, :]).any(-1)


def _summed(losses: Tensor, inputs: LossInputs) -> LossOutput:
    return LossOutput(_anchored(losses.sum(), inputs), float(losses.numel()))


def _anchored(total: Tensor, inputs: LossInputs) -> Tensor:
    """Keep the graph when there is no unit: every process must run a backward pass, or the others wait for ever."""
    return total + 0.0 * inputs.rewards.sum()
