"""Any `Scorer` as the process reward model of its_hub, reward_hub and search-and-learn.

All three want a number in [0, 1] for every step: a log-ratio goes through a sigmoid, a probability stays as it is. They
pass whole texts, most of them unfinished, and do not say which ones have ended, so no response gets an end-of-turn
token. None of the packages is needed to import this module.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Sequence
from typing import Any

from implicit_prm.rewards.implicit_reward import AGGREGATES, sigmoid, step_values
from implicit_prm.scoring.scorers import group_scorer
from implicit_prm.types import Group, ImplicitPRMError, Prompt, Scorer, StepScores


class StepProbabilities:
    """Scores the steps of unfinished responses in [0, 1], one call at a time.

    Args:
        scorer: an implicit PRM or any other `Scorer`.
        over: value of a step: step, step_mean or prefix; see `step_values`.
    """

    def __init__(self, scorer: Scorer, over: str = "step") -> None:
        self._score, self._over = group_scorer(scorer), over
        self._lock = threading.Lock()  # a model whose adapter is off for the reference must not score

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[list[list[float]]]:
        """[prompts, responses, steps] numbers, as lists; a response without steps has the single number 0.

        Equal prompts next to each other are scored together: searches repeat a prompt for every beam.
        """
        scored: list[list[list[float]]] = []
        for prompt, run in itertools.groupby(zip(prompts, responses, strict=True), lambda pair: pair[0]):
            lists = [list(texts) for _, texts in run]
            texts = [text for some in lists for text in some]
            group = Group("of the search", prompt, texts, [None] * len(texts), [False] * len(texts))
            with self._lock:
                values = iter([self._probabilities(one) for one in self._score(group)])
            scored += [[next(values) for _ in some] for some in lists]
        return scored

    def _probabilities(self, one: StepScores) -> list[float]:
        values = step_values(one, self._over)
        return [value if one.kind == "probability" else sigmoid(value) for value in values] or [0.0]


class ItsHubPRM:
    """The `AbstractProcessRewardModel` of its_hub, for its beam search and its particle filtering.

    Examples:
        >>> BeamSearch(StepGeneration(max_steps=20, step_token="\\n\\n"), ItsHubPRM(prm), beam_width=4)

    Args:
        scorer: an implicit PRM or any other `Scorer`.
        aggregate: how the values of the steps so far become the value of a response: min, max, last, mean or product.
        over: value of a step: step, step_mean or prefix.

    Raises:
        ImplicitPRMError: an aggregate that is not in [0, 1].
    """

    def __init__(self, scorer: Scorer, aggregate: str = "min", over: str = "step") -> None:
        if aggregate not in AGGREGATES or aggregate == "sum":
            raise ImplicitPRMError(f"aggregate={aggregate}: expected min, max, last, mean or product")
        self._steps, self._aggregate = StepProbabilities(scorer, over), AGGREGATES[aggregate]

    def score(self, prompt_or_messages: Any, steps: Sequence[str]) -> list[float]:
        """The value of every response so far.

        Args:
            prompt_or_messages: the problem's text, or a chat: its_hub's `ChatMessages`, or a list of messages.
            steps: its_hub's name for the texts of responses, each whole from its first step on.

        Returns:
            A number in [0, 1] for each response.
        """
        return [self._aggregate(one) for one in self._steps([_prompt(prompt_or_messages)], [steps])[0]]

    async def ascore(self, prompt_or_messages: Any, steps: Sequence[str]) -> list[float]:
        """`score` in a thread, so that requests to the generator go on."""
        return await asyncio.to_thread(self.score, prompt_or_messages, steps)


class RewardHubPRM:
    """A process reward model of reward_hub, called as those that it comes with.

    Examples:
        >>> RewardHubPRM(prm).score([{"role": "user", "content": problem}, {"role": "assistant", "content": response}])

    Args:
        scorer: an implicit PRM or any other `Scorer`. It splits responses into steps by its own rule.
        over: value of a step: step, step_mean or prefix.
    """

    def __init__(self, scorer: Scorer, over: str = "step") -> None:
        self._steps = StepProbabilities(scorer, over)

    def score(
        self, messages: Sequence[Any], aggregation_method: Any = "last", return_full_prm_result: bool = False
    ) -> list[Any]:
        """The scores of the last messages of conversations.

        Args:
            messages: conversations, or a single one; each a list of {role, content} that ends in the response.
            aggregation_method: last, min or prod; or reward_hub's `AggregationMethod`.
            return_full_prm_result: return reward_hub's `PRMResult`, which needs the package.

        Returns:
            A number in [0, 1] or a `PRMResult` for each conversation.

        Raises:
            ImplicitPRMError: another aggregation method.
        """
        method = getattr(aggregation_method, "value", aggregation_method)
        aggregates = {"last": "last", "min": "min", "prod": "product"}
        if method not in aggregates:
            raise ImplicitPRMError(f"aggregation_method={method}: expected {', '.join(aggregates)}")
        conversations = [messages] if isinstance(messages[0], dict) else messages
        prompts = [_prompt(conversation[:-1]) for conversation in conversations]
        scored = self._steps(prompts, [[conversation[-1]["content"]] for conversation in conversations])
        if return_full_prm_result:
            from reward_hub.base import PRMResult

            return [PRMResult(values, method) for [values] in scored]
        return [AGGREGATES[aggregates[method]](values) for [values] in scored]


class SearchAndLearnPRM:
    """The `PRM` of search-and-learn, for its best-of-N, beam search and DVTS.

    Examples:
        >>> beam_search(examples, config, llm, SearchAndLearnPRM(prm))

    Args:
        scorer: an implicit PRM or any other `Scorer`.
        over: value of a step: step, step_mean or prefix.
    """

    def __init__(self, scorer: Scorer, over: str = "step") -> None:
        self._steps = StepProbabilities(scorer, over)

    def score(self, questions: Sequence[str], outputs: Sequence[Sequence[str]]) -> list[list[list[float]]]:
        """Values of steps.

        Args:
            questions: the problems.
            outputs: the texts of the responses to each of them.

        Returns:
            [questions, responses, steps] numbers in [0, 1], as lists.
        """
        return self._steps(questions, outputs)


def _prompt(prompt_or_messages: Any) -> Prompt:
    """A text or messages as a prompt. A single message of the user is the problem's text, for the model's template."""
    if isinstance(prompt_or_messages, str):
        return prompt_or_messages
    if hasattr(prompt_or_messages, "to_chat_messages"):  # its_hub.api.ChatMessages
        prompt_or_messages = prompt_or_messages.to_chat_messages()
    messages = [one if isinstance(one, dict) else one.to_dict() for one in prompt_or_messages]
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return [{"role": one["role"], "content": one["content"]} for one in messages]
