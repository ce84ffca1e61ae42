"""Losses on implicit rewards: dpo, kto, nca and ce (arXiv 2412.01981), prefix (arXiv 2604.13197) and steps.

A loss takes rewards (beta is already applied), labels, and the prompt that each response belongs to. It knows nothing
of models, tokenizers or devices. It returns the *sum* over its units (pairs, responses or groups) and their number. The
caller divides by the number of units in the whole optimiser step, over all micro-batches and processes, so the gradient
does not depend on how the batch is split.

Every loss reads the same reward, r = beta * sum of token log-ratios, so a model trained with any of them gives step
rewards. Most losses read only the sum; `prefix` and `steps` read the token rewards.
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
    """The inputs of a loss, for R responses of at most T tokens and S steps.

    Args:
        rewards: [R] float32, r(y) = beta * sum of log-ratios.
        labels: [R] bool, whether the final answer is right.
        groups: [R] int64, the prompt that each response belongs to.
        kl: [2] float32, KTO's baselines of the desirable and the undesirable rewards, detached; None for other losses.
        token_rewards: [R, T] float32, the terms of `rewards`, zero outside the response.
        completion_mask: [R, T] bool, true at tokens of the response.
        step_of_token: [R, T] int64, the step that each token belongs to.
        step_labels: [R, S] float32 in [0, 1], whether each step is right; NaN for an unlabelled step and after the last
            step of a response.
        offset: [R] float32, added to the logits of `ce` and `prefix`, as from `accuracy_offset`.
        weight: [R] float32, weight of each response in `ce` and `prefix`, as from `rare_class_weight`.
    """

    rewards: Tensor
    labels: Tensor
    groups: Tensor
    kl: Tensor | None = None
    token_rewards: Tensor | None = None
    completion_mask: Tensor | None = None
    step_of_token: Tensor | None = None
    step_labels: Tensor | None = None
    offset: Tensor | None = None
    weight: Tensor | None = None


@dataclass
class LossOutput:
    """The value of a loss.

    Args:
        total: the sum of the losses of all units; differentiable even if there are none.
        units: the number of units.
    """

    total: Tensor
    units: float


def pairs(labels: Tensor, groups: Tensor, pairing: str = "all") -> tuple[Tensor, Tensor]:
    """The pairs of a correct and an incorrect response to the same prompt.

    Args:
        labels: [R] bool.
        groups: [R] int64.
        pairing: `all`: every correct with every incorrect response (the official training code). `one_to_one`: the
            i-th correct with the i-th incorrect response of the prompt (the paper's text), which gives
            min(correct, incorrect) pairs.

    Returns:
        Indices [P] of the correct and [P] of the incorrect responses.
    """
    same = groups[:, None] == groups[None, :]
    mixed = same & labels[:, None] & ~labels[None, :]
    if pairing == "one_to_one":
        rank = _rank_within_class(labels, same)
        mixed = mixed & (rank[:, None] == rank[None, :])
    chosen, rejected = mixed.nonzero(as_tuple=True)
    return chosen, rejected


def _rank_within_class(labels: Tensor, same: Tensor) -> Tensor:
    """[R] the number of earlier responses with the same prompt and label."""
    alike = same & (labels[:, None] == labels[None, :])
    return alike.tril(-1).sum(-1)


def dpo(inputs: LossInputs, config: DPOConfig) -> LossOutput:
    """-log sigmoid(r_w - r_l) over pairs (Rafailov et al., arXiv 2305.18290, Equation 7)."""
    chosen, rejected = pairs(inputs.labels, inputs.groups, config.pairing)
    margins = inputs.rewards[chosen] - inputs.rewards[rejected]
    return _summed(-F.logsigmoid(margins), inputs)


def nca(inputs: LossInputs, config: NCAConfig) -> LossOutput:
    """Noise contrastive alignment (Chen et al., arXiv 2402.05369).

    `form="pair"`, over pairs: -log sigmoid(r_w) - 1/2 log sigmoid(-r_w) - 1/2 log sigmoid(-r_l). The first term
    increases r_w and the second decreases it: the loss is not monotone in r_w, its minimum over r_w is at
    sigmoid(r_w) = 2/3, and it may rise while training works.

    `form="group"`, over prompts with correct and incorrect responses: -sum_i [w_i log sigmoid(r_i)
    + 1/K log sigmoid(-r_i)] over the K responses, with w_i = 1/(number of correct ones) for correct ones and 0 for
    others. For one response of each kind it equals `pair`.
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
    """KTO (Ethayarajh et al., arXiv 2402.01306): over responses, each compared with a baseline z.

    Desirable: weight_D * (1 - sigmoid(r - z)); undesirable: weight_U * (1 - sigmoid(z - r)).

    `form="unpaired"`: z = beta * max(0, KL) for both, with the KL estimated on mismatched prompts and responses.
    `form="paired"` (the first, "vanilla" form): z is the mean reward of the other class, over prompts with both.
    The caller computes the baselines (`inputs.kl`).
    """
    if inputs.kl is None:
        raise ValueError("kto needs inputs.kl, the baselines of the desirable and the undesirable rewards")
    keep = _mixed(inputs)[1] if config.form == "paired" else torch.ones_like(inputs.labels)
    kl = inputs.kl.detach()
    desirable = config.desirable_weight * torch.sigmoid(kl[0] - inputs.rewards)
    undesirable = config.undesirable_weight * torch.sigmoid(inputs.rewards - kl[1])
    return _summed(torch.where(inputs.labels, desirable, undesirable)[keep], inputs)


def ce(inputs: LossInputs, config: CEConfig) -> LossOutput:
    """Cross-entropy of the label with the reward as the logit (arXiv 2412.01981, Equation 5, with its minus sign).

    With `offset="none"` the decision threshold is zero for every prompt, which few correct responses exceed: the mean
    reward of responses sampled from the reference is -beta * KL(pi_ref || pi_theta) <= 0, and the mean over the correct
    ones of a prompt is at most beta * log(1 / accuracy). The other offsets give each prompt its own threshold.

    `group_mean`: the logit is r minus the mean r of the prompt's responses. The gradient flows through the mean, so the
    derivatives of a group sum to zero and the loss does not depend on a common shift of its rewards. (A detached mean
    would push the whole group by sum_i [sigmoid(r_i - mean) - l_i], which no shift brings to zero.) Prompts with only
    correct or only incorrect responses are left out, as the loss could only pull their rewards together.

    `prompt_accuracy`: the logit is r + log[p / (1 - p)], where p is the share of correct responses of the prompt, kept
    at least half a response away from 0 and 1 (the prompt-adaptive boundary of arXiv 2604.13197). The reward is then
    what the response adds to the log-odds of being right. At r = 0 the derivatives of a mixed group sum to zero.
    """
    logits, labels = inputs.rewards + _offset(inputs, config.offset), inputs.labels.float()
    losses = F.binary_cross_entropy_with_logits(logits, labels, inputs.weight, reduction="none")
    return _summed(losses[_mixed(inputs)[1]] if config.offset == "group_mean" else losses, inputs)


def prefix(inputs: LossInputs, config: PrefixConfig) -> LossOutput:
    """Cross-entropy of the label at every prefix of a response (IPVRM, arXiv 2604.13197): the mean over tokens t of

        -log sigmoid(v_t - margin) if it is correct, -log sigmoid(-v_t - margin) if not,    v_t = q_t / t,

    summed over responses. v_t is the mean reward of the first t tokens.
    """
    if inputs.token_rewards is None or inputs.completion_mask is None:
        raise ValueError("prefix needs inputs.token_rewards and inputs.completion_mask")
    mask = inputs.completion_mask
    values = implicit_reward.prefix_values(inputs.token_rewards) / mask.cumsum(-1).clamp(min=1)
    values = values if inputs.offset is None else values + inputs.offset[:, None]
    losses = -F.logsigmoid(torch.where(inputs.labels[:, None], values, -values) - config.margin)
    losses = losses.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
    return _summed(losses if inputs.weight is None else losses * inputs.weight, inputs)


def steps(inputs: LossInputs, config: StepsConfig) -> LossOutput:
    """Squared error between sigmoid(step reward) and the label of the step, over labelled steps.

    The second stage of arXiv 2412.01981 as in its authors' code. (The paper prints another form, whose minimum for a
    wrong step is at a reward of 0, not below.) Labels may lie between 0 and 1.
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
    """[2] KTO's baselines, max(0, sum / count) each; 0 for a count of 0.

    Args:
        sums: [2] sums over all processes, so that a process with fewer responses does not weigh as much as others.
        counts: [2] the numbers of summands.
    """
    return (sums / counts.clamp(min=1)).clamp(min=0).detach()


def unit_count(labels: Tensor, groups: Tensor, config: LossConfig, step_labels: Tensor | None = None) -> float:
    """The number of units that the loss sums over these responses. It depends on the labels only, not on rewards."""
    token = torch.zeros(len(labels), 1, device=labels.device)  # one token per response is enough
    kl = torch.zeros(2, device=labels.device)
    inputs = LossInputs(token[:, 0], labels, groups, kl, token, token == 0, token.long(), step_labels)
    return LOSSES[config.name](inputs, config).units


def accuracy_offset(labels: Tensor, groups: Tensor) -> Tensor:
    """[R] log-odds of the share of correct responses of the prompt, kept half a response away from 0 and 1.

    The prompt-adaptive boundary of arXiv 2604.13197.

    Args:
        labels: [R] bool, whether the final answer is right.
        groups: [R] int64, the prompt that each response belongs to.
    """
    same = groups[:, None] == groups[None, :]
    size = same.sum(-1)
    half = 0.5 / size
    return ((same & labels[None, :]).sum(-1) / size).clamp(half, 1 - half).logit()


def rare_class_weight(labels: Tensor, groups: Tensor) -> Tensor:
    """[R] weight of each response: 1 - p if it is correct and p if not, over its mean, for a share p of correct ones.

    Correct and incorrect responses of a prompt then have the same total weight, and the rarer ones a larger one each
    (dynamic loss weighting, arXiv 2604.13197). 0 for prompts with only one kind.

    Args:
        labels: [R] bool, whether the final answer is right.
        groups: [R] int64, the prompt that each response belongs to.
    """
    same = groups[:, None] == groups[None, :]
    alike = same & (labels[:, None] == labels[None, :])
    size, kind = same.sum(-1), alike.sum(-1)
    return torch.where(kind < size, size / (2 * kind), 0.0)


def _offset(inputs: LossInputs, how: str) -> Tensor | float:
    """[R] the difference of the logit and the reward in `ce`."""
    if how == "none":
        return 0.0 if inputs.offset is None else inputs.offset
    if how == "prompt_accuracy":
        return accuracy_offset(inputs.labels, inputs.groups)
    same = inputs.groups[:, None] == inputs.groups[None, :]
    # Not a matrix product, which autocast would round.
    return -torch.where(same, inputs.rewards[None, :], 0.0).sum(-1) / same.sum(-1)


def _mixed(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """[R, R] whether two responses share a prompt, and [R] whether the prompt has correct and incorrect ones."""
    same = inputs.groups[:, None] == inputs.groups[None, :]
    return same, (same & inputs.labels[None, :]).any(-1) & (same & ~inputs.labels[None, :]).any(-1)


def _summed(losses: Tensor, inputs: LossInputs) -> LossOutput:
    return LossOutput(_anchored(losses.sum(), inputs), float(losses.numel()))


def _anchored(total: Tensor, inputs: LossInputs) -> Tensor:
    """Keep the graph if there are no units: every process must run a backward pass, or the others wait forever."""
    return total + 0.0 * inputs.rewards.sum()
