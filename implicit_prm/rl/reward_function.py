"""A PRM as a reward function of TRL's trainers: one number for each response."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from implicit_prm.baselines import RewardModel
from implicit_prm.evaluation.statistics import auroc
from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.rewards import implicit_reward
from implicit_prm.rl.prompt_check import PromptCheck
from implicit_prm.rl.rollouts import end_tokens
from implicit_prm.scoring.scorers import MeasuresLength, group_scorer
from implicit_prm.types import Group, ImplicitPRMError, Prompt, Scorer, StepScores

Squash = Literal["sigmoid", "none"]
RewardFunction = Callable[..., list[float | None]]


def reward_function(
    scorer: Scorer,
    aggregate: str = "min",
    over: str = "step",
    squash: Squash = "sigmoid",
    correct: RewardFunction | None = None,
    name: str = "prm",
) -> RewardFunction:
    """A reward function for `GRPOTrainer(reward_funcs=[...])` and TRL's other online trainers.

    The reward of a response is an aggregate of its step rewards. For a reward at every token, see `PrimeTrainer`.

    An `ImplicitPRM` reads the dataset's prompts with its own templates. It warns of prompts that are not as in its
    training: chats without its prompt template, and texts that hold it already.

    It logs, through TRL's `log_metric`, `NAME/step_min`, the mean lowest step reward, and with `correct` also
    `NAME/outcome_auroc`, the probability that a correct response of the batch has a higher reward than a wrong one.

    Args:
        scorer: an `ImplicitPRM`, or any object that scores the steps of responses. Of the latter, only a `RewardModel`
            is told which responses were cut off.
        aggregate: how step values become one number: min, max, last, mean, sum or product.
        over: which values: step, step_mean or prefix.
        squash: `sigmoid` maps the aggregate of log-ratios to (0, 1), and leaves probabilities as they are; `none`
            leaves both as they are, in beta x nats for an `ImplicitPRM`.
        correct: another reward function, which returns 1 for a correct response and 0 for a wrong one, or None. It is
            only used for the log.
        name: of the reward in the log.

    Returns:
        A function with TRL's keywords that returns a reward for each response. A response without steps, or too long to
        be scored, gets 0, the lowest value of a sigmoid; with `squash="none"` it gets None, which TRL leaves out.

    Raises:
        ImplicitPRMError: unknown options; and from the function, a scorer that fails, or an `ImplicitPRM` whose
            tokenizer is not the policy's.

    Example:
        >>> prm = ImplicitPRM.from_pretrained("outputs/ce")
        >>> trainer = GRPOTrainer(model, reward_funcs=[accuracy, reward_function(prm, correct=accuracy)], ...)
    """
    _check(aggregate, over, squash)
    score = group_scorer(scorer, too_long="lowest" if isinstance(scorer, MeasuresLength) else "error")
    check_prompt = PromptCheck(scorer) if isinstance(scorer, ImplicitPRM) else None

    def reward(
        prompts: Sequence[Prompt],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        texts = [completion_text(completion) for completion in completions]
        finished = [True] * len(texts)
        if isinstance(scorer, ImplicitPRM | RewardModel) and completion_ids is not None:
            finished = [_ended(scorer, ids, text) for ids, text in zip(completion_ids, texts, strict=True)]
        if check_prompt is not None:
            for prompt in prompts:
                check_prompt(prompt)
        scores = _by_prompt(score, prompts, texts, finished)
        rewards = [_reward(one, aggregate, over, squash) for one in scores]
        if log_metric is not None:
            batch = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids, **columns}
            labels = None if correct is None else correct(**batch)
            for key, value in _metrics(scores, rewards, labels).items():
                log_metric(f"{name}/{key}", value)
        return rewards

    reward.__name__ = name
    return reward


def completion_text(completion: Any) -> str:
    """The text of a completion as TRL passes it: a text, or a chat of one assistant message.

    Raises:
        ImplicitPRMError: a chat of several messages, as with tools.
    """
    if isinstance(completion, str):
        return completion
    if len(completion) != 1:
        roles = ", ".join(message["role"] for message in completion)
        raise ImplicitPRMError(f"expected completions of one assistant message, got {roles}; tools are not supported")
    return completion[0]["content"] or ""


def _check(aggregate: str, over: str, squash: str) -> None:
    for option, value, known in (
        ("aggregate", aggregate, tuple(implicit_reward.AGGREGATES)),
        ("over", over, implicit_reward.VALUES),
        ("squash", squash, get_args(Squash)),
    ):
        if value not in known:
            raise ImplicitPRMError(f"{option}={value!r}: choose one of {', '.join(known)}")


def _ended(prm: ImplicitPRM | RewardModel, ids: Sequence[int], text: str) -> bool:
    """Whether a response ended by itself, read from its last token."""
    tokenizer = prm.encoder.tokenizer
    if tokenizer.decode(list(ids), skip_special_tokens=True) != text:
        raise ImplicitPRMError(
            f"the PRM's tokenizer ({tokenizer.name_or_path}) does not decode the policy's tokens to the completion "
            f"{text[:60]!r}; use a PRM of the policy's model family, or another scorer. With a tokenizer that has a "
            "response_template, TRL passes the text without its reasoning: remove the template"
        )
    ends = end_tokens(prm.policy, tokenizer) if isinstance(prm, ImplicitPRM) else {tokenizer.eos_token_id}
    return bool(ids) and ids[-1] in prm.encoder.ends | ends


def _by_prompt(
    score: Callable[[Group], list[StepScores]], prompts: Sequence[Prompt], texts: list[str], finished: list[bool]
) -> list[StepScores]:
    """Scores of all responses, in order; those to the same prompt are scored together."""
    places = defaultdict(list)
    for place, prompt in enumerate(prompts):
        places[json.dumps(prompt)].append(place)
    found: dict[int, StepScores] = {}
    for here in places.values():
        group = Group(
            id=f"prompt {here[0]} of the batch",
            prompt=prompts[here[0]],
            completions=[texts[place] for place in here],
            correctness=[None] * len(here),
            finished=[finished[place] for place in here],
        )
        found |= dict(zip(here, score(group), strict=True))
    return [found[place] for place in range(len(prompts))]


def _reward(one: StepScores, how: str, over: str, squash: str) -> float | None:
    value = implicit_reward.aggregate(one, how, over)
    if squash == "none":
        return value if math.isfinite(value) else None
    kind = implicit_reward.aggregate_kind(one.kind, how)
    return implicit_reward.sigmoid(value) if kind == "log_ratio" or value == -math.inf else value


def _metrics(
    scores: Sequence[StepScores], rewards: Sequence[float | None], labels: Sequence[float | None] | None
) -> dict[str, float]:
    """Metrics of a batch; those that it does not define are left out."""
    lowest = [min(one.step_rewards) for one in scores if one.step_rewards]
    found = {"step_min": math.fsum(lowest) / len(lowest)} if lowest else {}
    if labels is not None:
        graded = [(r, y) for r, y in zip(rewards, labels, strict=True) if r is not None and y is not None]
        area = auroc([r for r, y in graded if y > 0.5], [r for r, y in graded if y <= 0.5])
        found |= {"outcome_auroc": area} if math.isfinite(area) else {}
    return found
