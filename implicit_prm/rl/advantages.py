"""Token-level advantages from outcomes and process rewards: pure functions on tensors.

Shapes: N responses, T tokens. `groups` [N] int64 says which responses share a prompt. Every statistic of a prompt is
taken over the responses with its id, wherever they stand, so results do not depend on the order of the responses, on
padding or on the number of processes. Pass the responses of all processes: a baseline over a part of a group is another
baseline.

An outcome that is NaN (not graded) enters no baseline and has advantage 0. So do the process rewards of a response
without tokens; its outcome counts, as in TRL's GRPOTrainer.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from implicit_prm.rewards.implicit_reward import step_sums
from implicit_prm.types import ImplicitPRMError

Baseline = Literal["leave_one_out", "group_mean"]
Credit = Literal["sum", "min"]
Scale = Literal["none", "group_std", "batch_std", "batch_max"]

_EPSILON = 1e-4  # added to standard deviations, as in TRL's GRPOTrainer
_SMALLEST_RETURN = 1e-6  # added to the largest return, as in PRIME's code; rewards that are rounding errors stay small


def outcome_advantages(
    outcomes: Tensor, groups: Tensor, baseline: Baseline = "leave_one_out", divide_by_std: bool = False
) -> Tensor:
    """Outcome of each response minus a baseline of its prompt.

    Args:
        outcomes: [N] float, for example 1 for a correct answer and 0 for a wrong one; NaN if not graded.
        groups: [N] int64, the prompt of each response.
        baseline: `leave_one_out`, the mean of the prompt's other responses (RLOO, arXiv 2402.14740), or `group_mean`,
            the mean of all of them (GRPO, arXiv 2402.03300).
        divide_by_std: divide by the standard deviation of the prompt's outcomes, as GRPO does.

    Returns:
        [N] float32. 0 for a response that is alone with its prompt.
    """
    advantages = outcomes.double() - _baseline(outcomes.double(), groups, baseline)
    if divide_by_std:
        deviations = outcomes.double() - _baseline(outcomes.double(), groups, "group_mean")
        _, number, count = _index(deviations, groups)
        squares = _group_sums(deviations.square().nan_to_num(), number)
        advantages = advantages / ((squares / (count - 1).clamp(min=1)).sqrt() + _EPSILON)
    return advantages.nan_to_num().float()


def process_advantages(
    token_rewards: Tensor,
    completion_mask: Tensor,
    groups: Tensor,
    step_of_token: Tensor | None = None,
    baseline: Baseline = "leave_one_out",
    credit: Credit = "sum",
    gamma: float = 1.0,
    shuffle: torch.Generator | None = None,
) -> Tensor:
    """Return of each token from the process rewards that follow, its own included, minus a baseline of its prompt.

    A unit is a token, or a step, whose reward is the sum of its tokens' rewards; all tokens of a step share its return.

    `credit="sum"`: sum_s gamma^(s - t) * (r_s - b) over the units s >= t of the response, where b is a mean over the
    prompt's other responses of their mean reward per unit (PRIME, arXiv 2502.01456, Equation 5).

    `credit="min"`: min_s r_s over the units s >= t, minus the mean of that over the units of the others. A sum lets
    many good steps pay for a wrong one (PURE, arXiv 2504.15275).

    Args:
        token_rewards: [N, T] process reward of each token.
        completion_mask: [N, T] bool, true at tokens of the response.
        groups: [N] int64, the prompt of each response.
        step_of_token: [N, T] int64, the step that each token belongs to; None if tokens are the units.
        baseline: `leave_one_out`, or `group_mean`, which includes the response itself.
        credit: `sum` or `min`.
        gamma: discount per unit; 1 with `credit="min"`.
        shuffle: permute the rewards of the units of each response first. A control: what these advantages teach comes
            from their number and size, not from where they are.

    Returns:
        [N, T] float32, zero outside the response. 0 for a response that is alone with its prompt.

    Raises:
        ImplicitPRMError: unknown `credit`, or `credit="min"` with a discount.
    """
    if credit not in get_args(Credit):
        raise ImplicitPRMError(f"credit={credit!r}: choose one of {', '.join(get_args(Credit))}")
    if credit == "min" and gamma != 1:
        raise ImplicitPRMError(f"gamma={gamma} has no meaning with credit='min'; leave it at 1")
    rewards, present, units = _units(token_rewards, completion_mask, step_of_token)
    if shuffle is not None:
        rewards = _permuted(rewards, present, shuffle)
    returns = _returns(rewards, present, groups, baseline, credit, gamma).nan_to_num()
    return returns.gather(1, units).masked_fill(~completion_mask, 0.0).float()


def value_advantages(
    token_rewards: Tensor,
    completion_mask: Tensor,
    groups: Tensor,
    outcomes: Tensor,
    step_of_token: Tensor | None = None,
    baseline: Baseline = "leave_one_out",
    gae_lambda: float = 1.0,
) -> Tensor:
    """What a PRM as the critic changes in the advantages of outcomes.

    The value before a unit, a token or a step, is sigmoid(o + s): s is the sum of the process rewards before it, in
    nats, and o are the log-odds of the accuracy of the prompt's other responses, a half added to each count. The values
    are followed by the outcome, 1 or 0, and generalized advantage estimation (arXiv 1506.02438) makes advantages of
    them: sum_k gae_lambda^k * (v_{t+k+1} - v_{t+k}). This function returns these minus the outcome's own advantage,
    outcome - sigmoid(o), so that they can be added to `outcome_advantages`.

    With `gae_lambda=1` the advantage is the outcome minus the value before the unit: a wrong answer is blamed on the
    place where the value falls, and a right one credited to what was likely to fail. The value depends on other
    responses and on what precedes the unit alone (with `leave_one_out`). Like any such baseline it leaves the expected
    gradient of the policy as it is, however wrong the PRM is, so that no policy is rewarded for pleasing the PRM. A
    smaller `gae_lambda` trusts the PRM more: with 0 a unit answers for what it changes in the value.

    Args:
        token_rewards: [N, T] process reward of each token, whose sum over a response is the log-odds of a correct one.
        completion_mask: [N, T] bool, true at tokens of the response.
        groups: [N] int64, the prompt of each response.
        outcomes: [N] float, above 0.5 for a correct response; NaN if not graded.
        step_of_token: [N, T] int64, the step that each token belongs to; None if tokens are the units.
        baseline: `leave_one_out`, or `group_mean`, which includes the response itself.
        gae_lambda: from 0 to 1.

    Returns:
        [N, T] float32, zero outside the response. 0 for a response that is alone with its prompt.
    """
    rewards, present, units = _units(token_rewards, completion_mask, step_of_token)
    correct = (outcomes > 0.5).double().masked_fill(outcomes.isnan(), torch.nan)
    start = _baseline(correct, groups, baseline, added=0.5)
    values = (start.logit()[:, None] + rewards.cumsum(1) - rewards).sigmoid()
    changes, following, value_after = torch.zeros_like(values), torch.zeros_like(start), correct
    for unit in reversed(range(values.shape[1])):
        here, value = present[:, unit], values[:, unit]
        following = torch.where(here, value_after - value + gae_lambda * following, following)
        value_after = torch.where(here, value, value_after)
        changes[:, unit] = following - (correct - start)
    return changes.nan_to_num().gather(1, units).masked_fill(~completion_mask, 0.0).float()


def scaled(
    advantages: Tensor, token_rewards: Tensor, completion_mask: Tensor, groups: Tensor, how: Scale = "none"
) -> Tensor:
    """Divide process advantages by their size. Signs are kept.

    Args:
        advantages: [N, T].
        token_rewards: [N, T] the rewards that they were made of.
        completion_mask: [N, T] bool, true at tokens of the response.
        groups: [N] int64, the prompt of each response.
        how: `none`; `group_std`, the standard deviation over the prompt's tokens (as arXiv 2604.13197); `batch_std`,
            that over all tokens; or `batch_max`, the largest absolute sum of the rewards from a token on, without a
            baseline (PRIME's code, but over all processes). All but `none` make the scale of the rewards, and so beta,
            irrelevant: noise of a model that was trained little counts as much as a signal.

    Returns:
        [N, T] float32.

    Raises:
        ImplicitPRMError: unknown `how`.
    """
    if how not in get_args(Scale):
        raise ImplicitPRMError(f"scale={how!r}: choose one of {', '.join(get_args(Scale))}")
    values = advantages.double()
    if how == "batch_max":
        rewards = token_rewards.double().masked_fill(~completion_mask, 0.0)
        values = values / (rewards.flip(1).cumsum(1).abs().amax() + _SMALLEST_RETURN)
    elif how != "none":
        number = groups.unique(return_inverse=True)[1] if how == "group_std" else torch.zeros_like(groups)
        sizes = _group_sums(completion_mask.sum(-1).double(), number)
        means = _group_sums(values.sum(-1), number) / sizes.clamp(min=1)
        squares = (values - means[:, None]).square().masked_fill(~completion_mask, 0.0).sum(-1)
        deviation = (_group_sums(squares, number) / (sizes - 1).clamp(min=1)).sqrt()
        values = values / (deviation[:, None] + _EPSILON)
    return values.float()


def combined(
    process: Tensor, outcome: Tensor, completion_mask: Tensor, coef: float = 1.0, whiten: bool = False
) -> Tensor:
    """outcome + coef * process at every token.

    Args:
        process: [N, T] process advantages.
        outcome: [N] outcome advantages, which every token of a response gets undiscounted.
        completion_mask: [N, T] bool, true at tokens of the response.
        coef: weight of the process advantages.
        whiten: then subtract the mean over all tokens of the batch and divide by their standard deviation, as PRIME's
            code does.

    Returns:
        [N, T] float32, zero outside the response.
    """
    values = (outcome[:, None].double() + coef * process.double()).masked_fill(~completion_mask, 0.0)
    if whiten:
        size = completion_mask.sum().clamp(min=1)
        values = (values - values.sum() / size).masked_fill(~completion_mask, 0.0)
        values = values / ((values.square().sum() / (size - 1).clamp(min=1)).sqrt() + _EPSILON)
    return values.float()


def in_accuracy_range(outcomes: Tensor, groups: Tensor, low: float, high: float) -> Tensor:
    """[N] bool, whether the mean outcome of the response's prompt is in [low, high] (PRIME's prompt filter).

    Args:
        outcomes: [N] float; NaN if not graded.
        groups: [N] int64, the prompt of each response.
        low: lowest mean outcome.
        high: highest mean outcome.
    """
    _, number, count = _index(outcomes.double(), groups)
    means = _group_sums(outcomes.double().nan_to_num(), number) / count
    return (means >= low) & (means <= high)


def _units(
    token_rewards: Tensor, completion_mask: Tensor, step_of_token: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """[N, U] the reward of each unit, [N, U] whether the response has it, and [N, T] the unit of each token."""
    units = step_of_token
    if units is None:
        units = torch.arange(token_rewards.shape[1], device=token_rewards.device).expand_as(token_rewards)
    width = int(units.max()) + 1
    rewards = step_sums(token_rewards.double().masked_fill(~completion_mask, 0.0), units, width)
    return rewards, step_sums(completion_mask.double(), units, width) > 0, units


def _returns(
    rewards: Tensor, present: Tensor, groups: Tensor, baseline: Baseline, credit: Credit, gamma: float
) -> Tensor:
    """[N, U] centred returns of the units."""
    size = present.sum(-1)
    if credit == "min":
        lowest = rewards.masked_fill(~present, torch.inf).flip(1).cummin(1).values.flip(1).masked_fill(~present, 0.0)
        return lowest - _baseline(lowest.sum(-1) / size, groups, baseline)[:, None]
    centred = rewards - _baseline(rewards.sum(-1) / size, groups, baseline)[:, None]
    centred = centred.masked_fill(~present, 0.0)
    returns = torch.zeros_like(centred)
    following = torch.zeros_like(centred[:, 0])
    for unit in reversed(range(centred.shape[1])):
        following = centred[:, unit] + gamma * following
        returns[:, unit] = following
    return returns


def _baseline(values: Tensor, groups: Tensor, how: Baseline, added: float = 0.0) -> Tensor:
    """[N] mean value of the prompt, with or without the response itself; NaN for a response without others.

    `added` is a number of ones, and of zeros, that are counted as well.
    """
    if how not in get_args(Baseline):
        raise ImplicitPRMError(f"baseline={how!r}: choose one of {', '.join(get_args(Baseline))}")
    known, number, count = _index(values, groups)
    sums = _group_sums(values.nan_to_num(), number)
    others = count - known.double()
    if how == "group_mean":
        mean = (sums + added) / (count + 2 * added)
    else:
        mean = (sums - values.nan_to_num() + added) / (others + 2 * added)
    return mean.masked_fill(others < 1, torch.nan)


def _index(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[N] whether a value is known, [N] the number of its group from 0, and [N] how many of the group are known."""
    known, number = ~values.isnan(), groups.unique(return_inverse=True)[1]
    return known, number, _group_sums(known.double(), number)


def _group_sums(values: Tensor, number: Tensor) -> Tensor:
    """[N] the sum of `values` over the group of each response."""
    sums = values.new_zeros(len(values)).index_add(0, number, values)
    return sums[number]


def _permuted(rewards: Tensor, present: Tensor, generator: torch.Generator) -> Tensor:
    """[N, U] the rewards of each response in a random order of its units."""
    permuted = rewards.clone()
    for row, here in enumerate(present):
        places = here.nonzero()[:, 0]
        order = torch.randperm(len(places), generator=generator).to(places.device)
        permuted[row, places] = rewards[row, places[order]]
    return permuted
