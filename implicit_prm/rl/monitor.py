"""What process rewards do during training, to see reward hacking: pure functions on a batch of rollouts.

A policy that is trained with process rewards may learn what they like rather than what is correct: the PRM's return
rises while accuracy falls, the PRM no longer tells correct from wrong responses, or reward gathers on tokens that carry
no content.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from implicit_prm.evaluation.statistics import auroc
from implicit_prm.rewards.implicit_reward import outcome_rewards, step_sums
from implicit_prm.rewards.losses import pairs
from implicit_prm.rl.advantages import outcome_advantages
from implicit_prm.training.metrics import pair_accuracy
from implicit_prm.types import ImplicitPRMError, StepLabels


def reward_metrics(
    token_rewards: Tensor, completion_mask: Tensor, newline: Tensor, outcomes: Tensor, groups: Tensor
) -> dict[str, float]:
    """Size and place of the rewards of a batch.

    Args:
        token_rewards: [N, T] reward of each token, zero outside the response.
        completion_mask: [N, T] bool, true at tokens of the response.
        newline: [N, T] bool, tokens that hold a line break.
        outcomes: [N] outcomes, above 0.5 for a correct response; NaN if not graded.
        groups: [N] int64, the prompt of each response.

    Returns:
        `return`: mean sum of rewards of a response. `share_last`, `share_newline`: share of the absolute rewards that
        is on the last token of a response, or on line breaks. `outcome_auroc`: probability that a correct response has
        a higher return than a wrong one, of any prompt. `pair_accuracy`: the same among responses to one prompt, which
        is what a baseline of the prompt leaves of it. Those that the batch does not define are left out.
    """
    rows = completion_mask.any(-1)
    if not rows.any():
        return {}
    returns = outcome_rewards(token_rewards)
    size = token_rewards.abs()
    last = completion_mask.cumsum(-1).argmax(-1, keepdim=True)
    found = {"return": returns[rows].mean().item()}
    if total := size.sum().item():
        found["share_last"] = size.gather(1, last).sum().item() / total
        found["share_newline"] = size[newline & completion_mask].sum().item() / total
    correct, wrong = rows & (outcomes > 0.5), rows & (outcomes <= 0.5)
    found["outcome_auroc"] = auroc(returns[correct].tolist(), returns[wrong].tolist())
    graded = correct | wrong
    chosen, rejected = pairs(correct[graded], groups[graded])
    found["pair_accuracy"] = pair_accuracy(returns[graded][chosen] - returns[graded][rejected]).mean().item()
    return {name: value for name, value in found.items() if not math.isnan(value)}


def step_metrics(
    values: Tensor,
    completion_mask: Tensor,
    step_of_token: Tensor,
    step_labels: Sequence[StepLabels],
    outcomes: Tensor,
    groups: Tensor,
) -> dict[str, float]:
    """Do token values, rewards or advantages, find the wrong steps?

    Args:
        values: [N, T] value of each token.
        completion_mask: [N, T] bool, true at tokens of the response.
        step_of_token: [N, T] int64, the step that each token belongs to.
        step_labels: [N] whether each step is right; none for a response that is left out.
        outcomes: [N] outcomes; NaN if not graded.
        groups: [N] int64, the prompt of each response.

    Returns:
        `step_auroc`: probability that a right step has a higher mean value than the first wrong step of a response;
        steps after the first wrong one are neither. `blame`: the share of a response's negative values that is on its
        first wrong step, the mean over the responses that have both and whose outcome is below the mean of the
        prompt's others. Those are the responses that outcomes alone blame, whatever the values are. Metrics that the
        batch does not define are left out.

    Raises:
        ImplicitPRMError: a response whose number of labels is not its number of steps.
    """
    width = max(int(step_of_token.max()) + 1, *map(len, step_labels))
    inside = completion_mask.double()
    sizes = step_sums(inside, step_of_token, width)
    means = step_sums(values.double() * inside, step_of_token, width) / sizes.clamp(min=1)
    negative = step_sums(values.double().clamp(max=0) * inside, step_of_token, width)
    blamed = outcome_advantages(outcomes, groups) < 0
    right: list[float] = []
    wrong: list[float] = []
    blame: list[float] = []
    for row, labels in enumerate(step_labels):
        if not labels or not completion_mask[row].any():
            continue
        if (steps := int(step_of_token[row].max()) + 1) > len(labels):
            raise ImplicitPRMError(
                f"{len(labels)} step labels but {steps} steps; the step rules of the PRM and of the labels differ"
            )
        owned, error = sizes[row] > 0, labels.first_error
        right += [means[row, step].item() for step in range(len(labels[:error])) if owned[step]]
        if error is None or not owned[error]:
            continue
        wrong.append(means[row, error].item())
        if blamed[row] and (total := negative[row].sum().item()):
            blame.append(negative[row, error].item() / total)
    found = {"step_auroc": auroc(right, wrong)}
    found |= {"blame": math.fsum(blame) / len(blame)} if blame else {}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def parts_from_accuracy(returns: Sequence[float], accuracies: Sequence[float], window: int = 20) -> bool:
    """Whether the PRM's return rises while accuracy falls: over the last `window` batches against those before.

    Both differences must exceed two standard errors.

    Args:
        returns: mean return of each batch, in order.
        accuracies: share of correct responses of each batch.
        window: number of batches to compare; nothing is said before twice as many.
    """
    if len(returns) < 2 * window:
        return False
    return _change(returns, window) > 2 and _change(accuracies, window) < -2


def _change(values: Sequence[float], window: int) -> float:
    """Difference of the means of the last two windows, in standard errors; 0 if it is undefined."""
    series = torch.tensor(values[-2 * window :], dtype=torch.float64).view(2, window)
    error = (series.var(1).sum() / window).sqrt()
    return ((series[1].mean() - series[0].mean()) / error).nan_to_num().item()
