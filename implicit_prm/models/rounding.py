"""How far half precision moves a response's score, and a warning where that drowns the signal."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from implicit_prm.models.shared_prompt import Ids, PlainRows, response_logprobs

_RESPONSES = 4  # enough for an estimate


@torch.no_grad()
def rounding_noise(model: Any, prompt_ids: Ids, responses: Sequence[Ids]) -> float:
    """Estimate how far rounding moves a response's log-probability.

    The same numbers are computed in two ways, with a shared prompt and one row at a time. They are equal in exact
    arithmetic, so the difference is rounding.

    Args:
        model: the causal LM.
        prompt_ids: tokens of the prompt.
        responses: tokens of each response.

    Returns:
        The root mean square over the responses, in nats.
    """
    shared = response_logprobs(model, prompt_ids, responses, sum(map(len, responses)) + len(responses))
    plain = [PlainRows(model, prompt_ids).logprobs([ids]).cpu() for ids in responses]
    difference = torch.stack([one.sum() - other.sum() for one, other in zip(shared, plain, strict=True)])
    return difference.square().mean().sqrt().item()


def warn_of_rounding(
    model: Any,
    prompt_ids: Ids,
    responses: Sequence[Ids],
    policy: Sequence[Tensor],
    reference: Sequence[Tensor] | None,
) -> None:
    """Warn if rounding is as large as the differences between these responses' log-ratios.

    Args:
        model: the policy.
        prompt_ids: tokens of the prompt.
        responses: tokens of each response, at least two.
        policy: [T] log-probabilities of each response under the policy, in nats.
        reference: the same under the reference; None without one.
    """
    log_ratios = [one.sum() - (0 if reference is None else reference[place].sum()) for place, one in enumerate(policy)]
    spread = torch.stack(log_ratios).std().item()
    models = 1 if reference is None else 2
    noise = rounding_noise(model, prompt_ids, responses[:_RESPONSES]) * math.sqrt(models)
    if noise > 0.25 * spread:
        warnings.warn(
            f"{model.dtype} rounds a response's log-ratio by about {noise:.2g} nats, and the log-ratios of these "
            f"responses differ by {spread:.2g} (standard deviation); rank with dtype=float32, or with float16, which "
            "rounds eight times less than bfloat16",
            stacklevel=4,
        )
