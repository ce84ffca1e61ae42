"""Rewards and steps of the tokens of rollouts, from an implicit PRM or from any other scorer."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.rewards.step_splitting import split_steps
from implicit_prm.rl.advantages import Credit
from implicit_prm.rl.rollouts import RolloutGroup
from implicit_prm.rl.token_steps import decoded, steps_of_ids
from implicit_prm.scoring.scorers import group_scorer
from implicit_prm.types import Group, ImplicitPRMError, Scorer, StepLabels, StepScores


@dataclass(frozen=True)
class TokenRewards:
    """What a scorer says of one response of T tokens.

    Args:
        rewards: [T] reward of each token.
        step_of_token: [T] the step that each token belongs to.
        step_labels: [S] whether each step is right, if they are checked.
    """

    rewards: list[float]
    step_of_token: list[int]
    step_labels: StepLabels = StepLabels(())  # noqa: RUF009


RewardTokens = Callable[[RolloutGroup], list[TokenRewards]]


def prm_token_rewards(
    prm: ImplicitPRM, group: RolloutGroup, reference: Sequence[Tensor] | None = None, max_tokens: int | None = None
) -> list[TokenRewards]:
    """Rewards of the tokens of a prompt's responses from an implicit PRM, on the ids that the policy sampled.

    Args:
        prm: whose tokenizer is the policy's.
        group: the responses.
        reference: [T] reference log-probabilities of each response, in nats; by default the PRM's own.
        max_tokens: in one forward pass, padding included.

    Returns:
        One for each response of the group, in beta x nats.
    """
    found = []
    rewards = prm.token_rewards(group.prompt_ids, group.responses, reference, max_tokens=max_tokens)
    for ids, values in zip(group.responses, rewards, strict=True):
        text, offsets = decoded(prm.tokenizer, ids)
        steps = steps_of_ids(text, offsets, split_steps(text, prm.metadata.text.steps))
        found.append(TokenRewards(values.tolist(), steps))
    return found


def scorer_token_rewards(scorer: Scorer, tokenizer: PreTrainedTokenizerBase, ends: Container[int]) -> RewardTokens:
    """Rewards from a scorer of steps: that of a step is at its last token, all other tokens have 0.

    Args:
        scorer: whose scores have spans.
        tokenizer: the policy's.
        ends: tokens that end a response; one that ends in another token was cut off.

    Returns:
        A function from the responses of a prompt to their rewards.
    """
    score = group_scorer(scorer)

    def reward(group: RolloutGroup) -> list[TokenRewards]:
        read = [decoded(tokenizer, ids) for ids in group.responses]
        texts = [text for text, _ in read]
        finished = [ids[-1] in ends for ids in group.responses]
        name = f"prompt {group.number} of the batch"
        scores = score(Group(name, group.prompt, texts, [None] * len(read), finished))
        return [_step_rewards(one, text, offsets) for one, (text, offsets) in zip(scores, read, strict=True)]

    return reward


def lowest_credit(rewards: Sequence[float]) -> list[float]:
    """Rewards whose sum from each place on is the lowest of the given rewards from there on.

    For trainers whose return is an undiscounted sum. See `credit="min"` of `process_advantages`.

    Args:
        rewards: [U] of the tokens, or of the steps, of a response.

    Returns:
        [U] rewards.
    """
    lowest = list(accumulate(reversed(rewards), min))[::-1]
    return [here - after for here, after in zip(lowest, [*lowest[1:], 0.0], strict=True)] if lowest else []


def at_step_ends(one: TokenRewards, credit: Credit = "sum") -> list[float]:
    """[T] the reward of each step, the sum over its tokens, at its last token; all other tokens have 0.

    Args:
        one: the rewards of a response.
        credit: `min` for rewards whose sum is the lowest one that follows, as `lowest_credit`.
    """
    steps: dict[int, float] = {}
    for step, reward in zip(one.step_of_token, one.rewards, strict=True):
        steps[step] = steps.get(step, 0.0) + reward
    values = lowest_credit(list(steps.values())) if credit == "min" else steps.values()
    rewards = [0.0] * len(one.rewards)
    last = {step: place for place, step in enumerate(one.step_of_token)}
    for place, value in zip(last.values(), values, strict=True):
        rewards[place] = value
    return rewards


def _step_rewards(one: StepScores, text: str, offsets: list[tuple[int, int]]) -> TokenRewards:
    if len(one.spans) != len(one.step_rewards):
        raise ImplicitPRMError("expected StepScores with a span for each step, which says what tokens it owns")
    steps = steps_of_ids(text, offsets, one.spans)
    last = {step: place for place, step in enumerate(steps)}
    rewards = [0.0] * len(steps)
    for step, reward in enumerate(one.step_rewards):
        if step in last:  # a step may own no token
            rewards[last[step]] = reward
    return TokenRewards(rewards, steps)
