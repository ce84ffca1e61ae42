"""From token log-ratios to rewards: the one place where beta is applied.

    r(y) = beta * sum_t log[pi_theta(y_t | x, y_<t) / pi_ref(y_t | x, y_<t)]        (Yuan et al., arXiv 2412.01981)

The partial sums q_t of the same quantity are, for any pi_theta, the soft value beta * log E_ref[exp(r / beta)] of the
prefix (Proposition 3.1), so a step's reward is the q at its last token less the q at the previous step's last token.

Shapes: B responses, T tokens, S steps. Log-probabilities are in nats, rewards in beta x nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from implicit_prm.types import ImplicitPRMError, StepScores


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


def step_sums(rewards: Tensor, step_of_token: Tensor, steps: int) -> Tensor:
    """[..., S] reward of each step, the sum of its tokens' rewards; 0 for a step that owns no token.

    Args:
        rewards: [..., T] token rewards, zero where there is no token of the response.
        step_of_token: [..., T] int64, the step each token belongs to.
        steps: S, the number of steps.
    """
    return rewards.new_zeros((*rewards.shape[:-1], steps)).scatter_add(-1, step_of_token, rewards)


def step_rewards(rewards: Tensor, step_of_token: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Rewards and prefix values of one response's steps.

    Args:
        rewards: [T] token rewards of the response (completion tokens only).
        step_of_token: [T] int64, non-decreasing, the step each token belongs to.
        steps: S, the number of steps; a step that owns no token has reward 0.

    Returns:
        step rewards [S] and prefix values [S] (q at each step's last token), float64 so that long sums stay exact.
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
    """One number for each step.

    Args:
        over: `step`, the step's own reward; `step_mean`, the mean reward of its tokens, so that a long step is not low
            for its length alone (0 for a step that owns no token, as is its reward); `prefix`, q at its last token.

    Raises:
        ImplicitPRMError: unknown `over`, prefix values of probabilities, or means without token counts.
    """
    if over not in VALUES:
        raise ImplicitPRMError(f"unknown values {over!r} to aggregate over; choose one of {', '.join(VALUES)}")
    if over == "step":
        return scores.step_rewards
    if over == "prefix":
        if scores.prefix_values is None:
            raise ImplicitPRMError("scores that are probabilities have no prefix values; aggregate over 'step'")
        return scores.prefix_values
    if scores.step_tokens is None:
        raise ImplicitPRMError("these scores came without token counts, so steps have no mean; aggregate over 'step'")
    return [reward / max(size, 1) for reward, size in zip(scores.step_rewards, scores.step_tokens, strict=True)]


def aggregate(scores: StepScores, how: str = "min", over: str = "step") -> float:
    """One number for a response from the numbers of its steps.

    The paper takes the lowest step reward (`min` over `step`); the official ProcessBench script and several later
    papers read the prefix values q instead (`over="prefix"`). A sum of logs grows with a step's length, which
    `over="step_mean"` takes out.

    Args:
        how: min, max, last, mean, sum, or product. A product of signed log-ratios has no meaning: it is taken over
            probabilities, which for log-ratios are sigmoid(value).
        over: step, step_mean or prefix; see `step_values`.

    Returns:
        The aggregate, or -inf for a response without a step, which must not win a comparison by having nothing to lose.

    Raises:
        ImplicitPRMError: unknown `how` or `over`, or values that these scores do not have.
    """
    if how not in AGGREGATES:
        raise ImplicitPRMError(f"unknown aggregate {how!r}; choose one of {', '.join(AGGREGATES)}")
    values = step_values(scores, over)
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
