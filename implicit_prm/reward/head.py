"""From token log-ratios to rewards: the one place where beta is applied.

    r(y) = beta * sum_t log[pi_theta(y_t | x, y_<t) / pi_ref(y_t | x, y_<t)]        (Yuan et al., arXiv 2412.01981)

The partial sums q_t of the same quantity are, for any pi_theta, the soft value beta * log E_ref[exp(r / beta)] of the
prefix (Proposition 3.1), so a step's reward is the q at its last token less the q at the previous step's last token.

Shapes: B responses, T tokens, S steps. Log-probabilities are in nats, rewards in beta x nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from implicit_prm.records import ImplicitPRMError, StepScores


def token_log_ratio(policy_logprobs: Tensor, reference_logprobs: Tensor | None, completion_mask: Tensor) -> Tensor:
    """[B, T] float32 log-ratio in nats, zero outside the completion.

    Without a reference the "ratio" is log pi_theta itself: a uniform reference, which still satisfies Proposition 3.1.
    """
    ratio = policy_logprobs.float()
    if reference_logprobs is not None:
        ratio = ratio - reference_logprobs.float()
    return ratio.masked_fill(~completion_mask, 0.0)


def token_rewards(log_ratio: Tensor, beta: float) -> Tensor:
    """[B, T] reward of each token, beta * log-ratio (Equation 3 read at token level)."""
    return beta * log_ratio


def prefix_values(rewards: Tensor) -> Tensor:
    """[B, T] q_t, the running sum of the token rewards; q at the last token is the outcome reward."""
    return rewards.cumsum(-1)


def outcome_rewards(rewards: Tensor) -> Tensor:
    """[B] r(y), the sum of the token rewards."""
    return rewards.sum(-1)


def step_rewards(rewards: Tensor, step_of_token: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Rewards and prefix values of one response's steps.

    Args:
        rewards: [T] token rewards of the response (completion tokens only).
        step_of_token: [T] int64, non-decreasing, the step each token belongs to.
        steps: S, the number of steps; a step that owns no token has reward 0.

    Returns:
        step rewards [S] and prefix values [S] (q at each step's last token), float64 so that long sums stay exact.
    """
    summed = torch.zeros(steps, dtype=torch.float64).index_add_(0, step_of_token.cpu(), rewards.double().cpu())
    return summed, prefix_values(summed)


AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "max": max,
    "last": lambda values: values[-1],
    "mean": lambda values: math.fsum(values) / len(values),
    "sum": math.fsum,
    "product": math.prod,
}
VALUES = ("step", "prefix")


def aggregate(scores: StepScores, how: str = "min", over: str = "step") -> float:
    """One number for a response from the numbers of its steps.

    The paper takes the lowest step reward (`min` over `step`); the official ProcessBench script and several later
    papers read the prefix values q instead (`over="prefix"`).

    Args:
        how: min, max, last, mean, sum, or product. A product of signed log-ratios has no meaning: it is taken over
            probabilities, which for log-ratios are sigmoid(value).
        over: step or prefix.

    Returns:
        The aggregate, or -inf for a response without a step, which must not win a comparison by having nothing to lose.

    Raises:
        ImplicitPRMError: unknown `how` or `over`, or prefix values asked of probabilities.
    """
    if how not in AGGREGATES:
        raise ImplicitPRMError(f"unknown aggregate {how!r}; choose one of {', '.join(AGGREGATES)}")
    if over not in VALUES:
        raise ImplicitPRMError(f"unknown values {over!r} to aggregate over; choose one of {', '.join(VALUES)}")
    values = scores.step_rewards if over == "step" else scores.prefix_values
    if values is None:
        raise ImplicitPRMError("scores that are probabilities have no prefix values; aggregate over 'step'")
    if not values:
        return -math.inf
    if how == "product" and scores.kind == "log_ratio":
        values = [sigmoid(value) for value in values]
    return float(AGGREGATES[how](values))


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), without overflow; 0 for -inf."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))
