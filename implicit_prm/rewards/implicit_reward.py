"""Rewards from token log-ratios (Yuan et al., arXiv 2412.01981). Beta is applied here and nowhere else.

    r(y) = beta * sum_t log[pi_theta(y_t | x, y_<t) / pi_ref(y_t | x, y_<t)]

For any pi_theta, the partial sums q_t are the soft value of the prefix, beta * log E_ref[exp(r / beta)]
(Proposition 3.1). The reward of a step is q at its last token minus q at the last token of the previous step.

Shapes: B responses, T tokens, S steps. Log-probabilities are in nats, rewards in beta x nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from implicit_prm.types import ImplicitPRMError, StepScores


def token_log_ratio(policy_logprobs: Tensor, reference_logprobs: Tensor | None, completion_mask: Tensor) -> Tensor:
    """Log-ratio of policy and reference at each token.

    Args:
        policy_logprobs: [B, T] log pi_theta of each token, in nats.
        reference_logprobs: [B, T] log pi_ref; None for a uniform reference, with which the "ratio" is log pi_theta.
            Proposition 3.1 holds for it as well.
        completion_mask: [B, T] bool, true at tokens of the response.

    Returns:
        [B, T] float32, in nats, zero outside the response.
    """
    ratio = policy_logprobs.float()
    if reference_logprobs is not None:
        ratio = ratio - reference_logprobs.float()
    return ratio.masked_fill(~completion_mask, 0.0)


def token_rewards(log_ratio: Tensor, beta: float) -> Tensor:
    """[B, T] reward of each token, beta * log-ratio (Equation 3 of arXiv 2412.01981 at token level)."""
    return beta * log_ratio


def response_rewards(policy: Tensor, reference: Tensor | None, beta: float, place: int) -> Tensor:
    """Reward of each token of one response, from log-probabilities.

    Args:
        policy: [T] log pi_theta of each token, in nats.
        reference: [T] log pi_ref; None for a uniform reference.
        beta: scale of the rewards.
        place: index of the response, for the message.

    Returns:
        [T] float32, in beta x nats.

    Raises:
        ImplicitPRMError: a log-probability is not finite.
    """
    rewards = token_rewards(token_log_ratio(policy, reference, torch.ones_like(policy, dtype=torch.bool)), beta)
    if not rewards.isfinite().all():
        raise ImplicitPRMError(
            f"response {place}: its log-probabilities are not finite; float16 overflows in some models, use "
            "dtype=bfloat16 or float32"
        )
    return rewards


def prefix_values(rewards: Tensor) -> Tensor:
    """[B, T] q_t, the cumulative sum of the token rewards; q at the last token is the outcome reward."""
    return rewards.cumsum(-1)


def outcome_rewards(rewards: Tensor) -> Tensor:
    """[B] r(y), the sum of the token rewards."""
    return rewards.sum(-1)


def step_sums(rewards: Tensor, step_of_token: Tensor, steps: int) -> Tensor:
    """[..., S] reward of each step, the sum of the rewards of its tokens; 0 for a step that owns no token.

    Args:
        rewards: [..., T] token rewards, zero outside the response.
        step_of_token: [..., T] int64, the step that each token belongs to.
        steps: S, the number of steps.
    """
    return rewards.new_zeros((*rewards.shape[:-1], steps)).scatter_add(-1, step_of_token, rewards)


def step_rewards(rewards: Tensor, step_of_token: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Rewards and prefix values of the steps of one response.

    Args:
        rewards: [T] token rewards of the response (completion tokens only).
        step_of_token: [T] int64, the step that each token belongs to, non-decreasing.
        steps: S, the number of steps; a step that owns no token has reward 0.

    Returns:
        Step rewards [S], and prefix values [S] (q at the last token of each step). float64, so that long sums stay
        exact.
    """
    summed = step_sums(rewards.double().cpu(), step_of_token.cpu(), steps)
    return summed, prefix_values(summed)


AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "max": max,
    "last": lambda values: values[-1],
    "mean": lambda values: math.fsum(values) / len(values),
    "sum": math.fsum,
    "product": math.prod,
}
VALUES = ("step", "step_mean", "prefix")


def step_values(scores: StepScores, over: str = "step") -> list[float]:
    """The values of the steps that an aggregate reads.

    Args:
        scores: the scores of one response.
        over: `step`: the reward of the step. `step_mean`: the mean reward of its tokens, so that a long step is not low
            because of its length (0 for a step that owns no token). `prefix`: q at the last token of the step.

    Returns:
        [S] values.

    Raises:
        ImplicitPRMError: unknown `over`, `prefix` of probabilities, or `step_mean` of scores without token counts.
    """
    if over not in VALUES:
        raise ImplicitPRMError(f"over={over!r}: choose one of {', '.join(VALUES)}")
    if over == "step":
        return scores.step_rewards
    if over == "prefix":
        if scores.prefix_values is None:
            raise ImplicitPRMError("probabilities have no prefix values; aggregate over 'step'")
        return scores.prefix_values
    if scores.step_tokens is None:
        raise ImplicitPRMError("these scores have no token counts, which over='step_mean' needs; aggregate over 'step'")
    return [reward / max(size, 1) for reward, size in zip(scores.step_rewards, scores.step_tokens, strict=True)]


def aggregate(scores: StepScores, how: str = "min", over: str = "step") -> float:
    """The score of a response from the values of its steps.

    The paper takes the lowest step reward (`min` over `step`). The official ProcessBench script and several later
    papers use the prefix values q (`over="prefix"`). A step reward is a sum over tokens, so it grows with the length of
    the step; `over="step_mean"` divides by the number of tokens.

    Args:
        scores: the scores of one response.
        how: min, max, last, mean, sum or product. A product is taken of probabilities; log-ratios are turned into
            probabilities by a sigmoid first.
        over: step, step_mean or prefix; see `step_values`.

    Returns:
        The aggregate. A response without steps gets -inf, so that it never wins a comparison.

    Raises:
        ImplicitPRMError: unknown `how` or `over`, or values that these scores do not have.
    """
    if how not in AGGREGATES:
        raise ImplicitPRMError(f"aggregate={how!r}: choose one of {', '.join(AGGREGATES)}")
    values = step_values(scores, over)
    if not values:
        return -math.inf
    if how == "product" and scores.kind == "log_ratio":
        values = [sigmoid(value) for value in values]
    return float(AGGREGATES[how](values))


def aggregate_kind(kind: str, how: str) -> str:
    """What `aggregate` makes of scores of a kind, log_ratio or probability; a product is a probability either way."""
    return "probability" if how == "product" else kind


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)) without overflow; 0 for -inf."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))
