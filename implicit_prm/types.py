"""The data types of the package, the `Scorer` protocol and the exception type.

A `Problem` becomes a `Group` of sampled responses, which is trained on or scored. Every scorer returns `StepScores`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from implicit_prm.utils.colors import HeatStrip, Scale
from implicit_prm.utils.errors import ImplicitPRMError as ImplicitPRMError
from implicit_prm.utils.errors import error_context

# A prompt is a problem text, or a chat: [{"role": "user", "content": ...}, ...].
Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class Problem:
    """A question with a known final answer."""

    id: str
    text: str
    answer: str


@dataclass(frozen=True)
class Samples:
    """The responses that a sampler returned for one problem.

    Args:
        problem: that was sampled.
        texts: of the responses.
        finished: did the response end by itself?
        tokens: generated for all responses; 0 if unknown.
        refused: why there are no responses.
        left_out: number of unusable responses, by reason.
        by_response: more columns for the row, with one entry per response.
        by_problem: more columns for the row.
    """

    problem: Problem
    texts: list[str]
    finished: list[bool]
    tokens: int = 0
    refused: str | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    by_response: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    by_problem: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenCounts:
    """Numbers of prompts and responses that passed through a model, and of their tokens."""

    prompts: int = 0
    responses: int = 0
    prompt_tokens: int = 0
    response_tokens: int = 0

    def __add__(self, other: TokenCounts) -> TokenCounts:
        return TokenCounts(
            self.prompts + other.prompts,
            self.responses + other.responses,
            self.prompt_tokens + other.prompt_tokens,
            self.response_tokens + other.response_tokens,
        )


@dataclass(frozen=True)
class StepSpan:
    """A step as characters [start, end) of its response. The spans of a response cover it exactly, in order."""

    start: int
    end: int


class StepLabels(tuple[float | None, ...]):
    """Is each step of one response right? One entry per step.

    An entry is true or false (a hard label), a number from 0 to 1 (the estimated probability that it is right), or None
    for a step without a label.

    Raises:
        ImplicitPRMError: not a list, or an entry that is none of these.

    Example:
        >>> StepLabels([True, False, False]).first_error
        1
    """

    __slots__ = ()

    def __new__(cls, labels: Iterable[float | None]) -> StepLabels:
        if isinstance(labels, StepLabels):
            return labels
        if isinstance(labels, str) or not isinstance(labels, Iterable):
            raise ImplicitPRMError(f"expected a list of step labels, one for each step, got {labels!r}")
        checked = super().__new__(cls, labels)
        for step, label in enumerate(checked):
            if label is not None and not (isinstance(label, bool | int | float) and 0 <= label <= 1):
                raise ImplicitPRMError(
                    f"the label of step {step} is {label!r}; expected true, false, a number from 0 to 1, or null for a "
                    "step without a label"
                )
        return checked

    @property
    def first_error(self) -> int | None:
        """Index of the first step that is labelled wrong (0 or false); None if there is none."""
        return self.index(0) if 0 in self else None

    @property
    def is_hard(self) -> bool:
        """Whether every label is true or false (or 1 or 0): no estimates, no missing labels."""
        return all(label in (0, 1) for label in self)

    def require_steps(self, steps: int) -> None:
        """Raises ImplicitPRMError unless there is one label for each of the response's `steps` steps."""
        if len(self) != steps:
            raise ImplicitPRMError(
                f"{len(self)} step labels but {steps} steps; split steps by the rule that the labels were made for "
                "(option steps, or data.steps in training)"
            )


@dataclass(frozen=True)
class Group:
    """One prompt with all of its responses: the unit of training and of reranking.

    Args:
        id: identifies the prompt in messages, files and caches.
        prompt: the problem's text, or a chat.
        completions: K responses.
        correctness: [K] whether each final answer is right; None for a response that is not graded.
        finished: [K] whether each response ended by itself; false if it was cut off.
        answer: the reference answer.
        steps: [K] the responses' own steps, for the step rule `given`.
        step_labels: [K] labels of each response's steps, None for a response without any. Lists become `StepLabels`.
        step_label_source: who made the step labels; None for ground truth.
        extra: other columns of the row.

    Raises:
        ImplicitPRMError: invalid step labels.
    """

    id: str
    prompt: Prompt
    completions: list[str]
    correctness: list[bool | None]
    finished: list[bool]
    answer: str | None = None
    steps: list[list[str]] | None = None
    step_labels: Sequence[StepLabels | None] | None = None
    step_label_source: str | None = None
    extra: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.step_labels is None:
            return
        checked: list[StepLabels | None] = []
        for place, labels in enumerate(self.step_labels):
            with error_context(f"response {place}"):
                checked.append(None if labels is None else StepLabels(labels))
        object.__setattr__(self, "step_labels", checked)  # the class is frozen

    def __len__(self) -> int:
        return len(self.completions)


@dataclass(frozen=True)
class TokenSums:
    """Sums over the tokens of one response, by class of token (`rewards.attribution`) and by tenth of the response.

    Args:
        class_tokens: [C] number of tokens of each class.
        class_rewards: [C] sum of their rewards, in beta x nats.
        class_magnitudes: [C] sum of their absolute rewards.
        tenth_tokens: [10] number of tokens in each tenth.
        tenth_magnitudes: [10] sum of their absolute rewards.
    """

    class_tokens: list[int]
    class_rewards: list[float]
    class_magnitudes: list[float]
    tenth_tokens: list[int]
    tenth_magnitudes: list[float]


@dataclass(frozen=True)
class StepScores:
    """The scores of one response of S steps and T tokens.

    Args:
        response: the text.
        spans: [S] the characters of each step; empty for scores read from a file.
        step_rewards: [S] the score of each step. With `kind="log_ratio"`, signed rewards in beta x nats; with
            `kind="probability"` (the output of a PRM trained on step labels), in [0, 1].
        prefix_values: [S] q at the end of each step, the cumulative sum of the rewards; None for probabilities.
        kind: log_ratio or probability.
        index: the position of the response in the list that was scored.
        token_rewards: [T] the reward of each token, in beta x nats.
        token_spans: [T] the characters of each token.
        reference_logprob: log pi_ref of the whole response, in nats.
        step_tokens: [S] the number of tokens that each step owns.
        token_sums: sums of the token rewards by class and by position.
    """

    response: str
    spans: list[StepSpan]
    step_rewards: list[float]
    prefix_values: list[float] | None = None
    kind: str = "log_ratio"
    index: int = 0
    token_rewards: list[float] | None = None
    token_spans: list[StepSpan] | None = None
    reference_logprob: float | None = None
    step_tokens: list[int] | None = None
    token_sums: TokenSums | None = None

    @property
    def steps(self) -> list[str]:
        """The texts of the steps; joined, they are the response."""
        return [self.response[span.start : span.end] for span in self.spans]

    @property
    def outcome_reward(self) -> float:
        """The reward of the response, q at its last token: the sum of the step rewards (log-ratio scores only)."""
        if self.kind != "log_ratio":
            raise ImplicitPRMError(f"outcome_reward is a sum of log-ratios; these scores are of kind {self.kind!r}")
        return math.fsum(self.step_rewards)

    @property
    def lowest_step(self) -> int | None:
        """Index of the step with the lowest reward, the likely place of an error; None without steps."""
        if not self.step_rewards:
            return None
        return min(range(len(self.step_rewards)), key=self.step_rewards.__getitem__)

    def heat_strip(self, by: str = "step", limit: float | None = None) -> HeatStrip:
        """The response coloured by its rewards, for a notebook: blue above neutral, orange below.

        Args:
            by: step or token. Tokens without characters, such as the end of turn, are shown as a dot.
            limit: the distance from neutral (0; 0.5 for probabilities) at which colours are full. Equal limits make
                strips comparable. By default the largest distance of this response; 0.5 for probabilities.

        Raises:
            ImplicitPRMError: unknown `by`, `by="token"` for scores without token rewards, or a limit not above 0.
        """
        if limit is not None and not limit > 0:
            raise ImplicitPRMError(f"limit is {limit}; it must be above 0")
        if by == "step":
            texts, values = self.steps or [f"step {k}" for k in range(1, len(self.step_rewards) + 1)], self.step_rewards
        elif by != "token":
            raise ImplicitPRMError(f"by={by!r}: choose step or token")
        elif self.token_rewards is None or self.token_spans is None:
            raise ImplicitPRMError("by='token' needs scores with token rewards, as from ImplicitPRM.score")
        else:
            texts, values, end = [], self.token_rewards, 0
            for span in self.token_spans:  # several may share a character: bytes of an emoji
                texts.append(self.response[end : span.end])
                end = max(end, span.end)
        return HeatStrip(f"response {self.index}", texts, values, Scale.of(self.kind, values, limit), by == "token")

    def _repr_html_(self) -> str:
        return self.heat_strip()._repr_html_()


@dataclass(frozen=True)
class ScoredStep:
    """What an extension of T tokens adds to a response (`ImplicitPRM.open`).

    Args:
        step_reward: the sum of the rewards of its tokens, in beta x nats; 0 without tokens.
        prefix_value: q at its last token, the sum of the rewards of all steps so far.
        token_rewards: [T] the reward of each token.
    """

    step_reward: float
    prefix_value: float
    token_rewards: list[float]


@runtime_checkable
class Scorer(Protocol):
    """Any object that scores the steps of responses: an implicit PRM, an explicit PRM or an ORM."""

    def score(self, problem: Prompt, responses: Sequence[str]) -> list[StepScores]:
        """One `StepScores` per response, in the order given."""
        ...
