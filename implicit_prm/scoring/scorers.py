"""Any `Scorer` as a function that scores a group: a model, a user's own object, or a column of scores.

A scorer needs one method, `score(problem, responses) -> list[StepScores]`. The rest is optional and used where present:

* `score` may name the keyword parameters `finished` (false for responses that were cut off), `given_steps` (each
  response's own split, None without a column `steps`) and `max_tokens` (per forward pass). A `**kwargs` gets none.
* `lengths(problem, responses, finished, given_steps)` and `limit_tokens`: tokens of each response with its prompt, and
  the most that the scorer takes. With both, responses that are too long are found before anything is scored.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from implicit_prm.rewards.attribution import token_sums
from implicit_prm.types import Group, ImplicitPRMError, Prompt, Scorer, StepScores, TokenSums
from implicit_prm.utils.progress import tracked

ScoreGroup = Callable[[Group], list[StepScores]]


@runtime_checkable
class MeasuresLength(Protocol):
    """The optional part of the protocol: a scorer that knows how long a response may be."""

    limit_tokens: int | None

    def lengths(
        self,
        problem: Prompt,
        responses: Sequence[str],
        finished: Sequence[bool],
        given_steps: Sequence[list[str]] | None = None,
    ) -> list[int]:
        """Tokens of every response, prompt included."""
        ...


def group_scorer(scorer: Scorer, max_tokens: int | None = None, too_long: str = "error") -> ScoreGroup:
    """A function that scores a group with `scorer` and checks what it returns.

    Args:
        scorer: see the module's text for what is optional.
        max_tokens: in one forward pass; None leaves it to the scorer.
        too_long: what happens to a response over `scorer.limit_tokens`. `error` scores it (and lets the scorer refuse);
            `lowest` gives it no steps, so that it never wins.

    Returns:
        A function that raises ImplicitPRMError, naming the problem, if the scorer fails or returns anything but one
        `StepScores` with finite numbers per response.

    Raises:
        ImplicitPRMError: the scorer has no `score`, or cannot do what `max_tokens` or `too_long` ask for.
    """
    name = type(scorer).__name__
    if not isinstance(scorer, Scorer):
        raise ImplicitPRMError(f"a scorer needs a method score(problem, responses); {name} has none")
    accepted = inspect.signature(scorer.score).parameters
    if max_tokens is not None and "max_tokens" not in accepted:
        raise ImplicitPRMError(f"max_tokens_per_batch={max_tokens}: {name}.score has no parameter max_tokens")
    if too_long != "error" and not isinstance(scorer, MeasuresLength):
        raise ImplicitPRMError(f"too_long={too_long}: {name} has no lengths() and limit_tokens")

    def score(group: Group) -> list[StepScores]:
        places = list(range(len(group)))
        if too_long != "error":
            places = _places_that_fit(group, scorer)  # type: ignore[arg-type]
        scored = _call(scorer, group, places, max_tokens, accepted)
        by_place = {
            place: _checked(one, f"problem {group.id}, response {place}: {name}.score")
            for place, one in zip(places, scored, strict=True)
        }
        unscored = StepScores("", [], [], [], step_tokens=[])
        return [
            replace(by_place.get(place, unscored), response=text, index=place)
            for place, text in enumerate(group.completions)
        ]

    return score


def _call(
    scorer: Scorer, group: Group, places: Sequence[int], max_tokens: int | None, accepted: Container[str]
) -> Sequence[StepScores]:
    """Scores of the responses at `places`, as many as there are; `accepted` are the parameters that `score` takes."""
    name = type(scorer).__name__
    optional = {
        "finished": [group.finished[place] for place in places],
        "given_steps": None if group.steps is None else [group.steps[place] for place in places],
        "max_tokens": max_tokens,
    }
    options = {key: value for key, value in optional.items() if key in accepted}
    try:
        scored = scorer.score(group.prompt, [group.completions[place] for place in places], **options)
    except ImplicitPRMError as error:
        raise ImplicitPRMError(f"problem {group.id}: {error}") from error
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise ImplicitPRMError(f"problem {group.id}: {name}.score failed, {cause}") from error
    if not isinstance(scored, Sequence) or len(scored) != len(places):
        found = len(scored) if isinstance(scored, Sequence) else type(scored).__name__
        raise ImplicitPRMError(
            f"problem {group.id}: expected {len(places)} StepScores from {name}.score, one per response, got {found}"
        )
    return scored


def _places_that_fit(group: Group, scorer: MeasuresLength) -> list[int]:
    """Places of the responses within `scorer.limit_tokens`."""
    if scorer.limit_tokens is None:
        return list(range(len(group)))
    lengths = scorer.lengths(group.prompt, group.completions, group.finished, group.steps)
    return [place for place, length in enumerate(lengths) if length <= scorer.limit_tokens]


def _checked(one: Any, where: str) -> StepScores:
    """The score if it holds finite numbers that fit together, with prefix values and sums over its tokens."""
    if not isinstance(one, StepScores):
        raise ImplicitPRMError(f"{where}: expected a StepScores, got {type(one).__name__}")
    rewards = _numbers(one.step_rewards, one.kind, f"{where}: step_rewards")
    for name in ("spans", "step_tokens", "prefix_values"):
        values = getattr(one, name)
        if values and len(values) != len(rewards):
            raise ImplicitPRMError(f"{where}: {len(rewards)} step_rewards but {len(values)} {name}")
    prefixes = one.prefix_values
    if one.kind == "log_ratio" and prefixes is None:
        prefixes = _running_sums(rewards)
    elif prefixes is not None:
        prefixes = _numbers(prefixes, "log_ratio", f"{where}: prefix_values")
    return replace(one, step_rewards=rewards, prefix_values=prefixes, token_sums=_token_sums(one, where))


def _token_sums(one: StepScores, where: str) -> TokenSums | None:
    """Sums over the tokens of scores that have them; None for others."""
    if one.token_rewards is None or one.token_spans is None:
        return None
    if len(one.token_rewards) != len(one.token_spans):
        raise ImplicitPRMError(
            f"{where}: {len(one.token_rewards)} token_rewards but {len(one.token_spans)} token_spans"
        )
    return token_sums(one.response, one.token_spans, one.token_rewards)


def _numbers(values: Any, kind: str, where: str) -> list[float]:
    """Step values as floats; refuses what is not finite, and probabilities outside [0, 1]."""
    if kind not in ("log_ratio", "probability"):
        raise ImplicitPRMError(f"{where}: unknown kind {kind!r}; expected log_ratio or probability")
    steps = list(values)
    # The type first: isinstance takes much longer with an abstract class, and there are millions of numbers.
    numbers = all(type(x) is float or (isinstance(x, Real) and not isinstance(x, bool)) for x in steps)
    if not numbers or not all(map(_is_finite, steps)):
        raise ImplicitPRMError(f"{where}: expected finite numbers, got {values!r}")
    if kind == "probability" and steps and not 0 <= min(steps) <= max(steps) <= 1:
        raise ImplicitPRMError(
            f"{where}: {values!r} is outside [0, 1]; signed rewards are of kind log_ratio (scores_kind=log_ratio for a "
            "column)"
        )
    return [float(number) for number in steps]


def _is_finite(number: Real) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond float64
        return False


def check_lengths(groups: Sequence[Group], scorer: Scorer) -> None:
    """Refuse the first response that is over the scorer's limit before anything is scored, not hours later.

    Scorers that do not measure length are not checked.
    """
    if not isinstance(scorer, MeasuresLength) or scorer.limit_tokens is None:
        return
    for group in tracked(groups, "checking lengths"):
        lengths = scorer.lengths(group.prompt, group.completions, group.finished, group.steps)
        for place, length in enumerate(lengths):
            if length > scorer.limit_tokens:
                raise ImplicitPRMError(
                    f"problem {group.id}: response {place} is {length} tokens long with its prompt; the limit is "
                    f"{scorer.limit_tokens}. Leave it out, raise max_length or use a model with a longer context, or "
                    "set too_long"
                )


def column_scorer(column: str, kind: str) -> ScoreGroup:
    """Read scores that are already in the candidates: per response a list with one number per step, or one number.

    Args:
        column: an extra column of the groups, aligned with their responses. A single number (an outcome model's score)
            is read as the score of one step; an empty list or null means that the response was not scored.
        kind: probability or log_ratio.

    Returns:
        A function that raises ImplicitPRMError, naming the problem: no such column, misaligned lists, more scores than
        the response has `steps`, values that are not finite, or probabilities outside [0, 1].
    """

    def score(group: Group) -> list[StepScores]:
        if column not in group.extra:
            there = ", ".join(sorted(group.extra)) or "none besides the standard ones"
            raise ImplicitPRMError(f"problem {group.id}: no column {column} in the candidates; columns: {there}")
        values = group.extra[column]
        if not isinstance(values, list) or len(values) != len(group):
            found = len(values) if isinstance(values, list) else repr(values)
            raise ImplicitPRMError(
                f"problem {group.id}: expected {len(group)} entries in column {column}, one per response, got {found}"
            )
        return [_from_column(group, place, entry, column, kind) for place, entry in enumerate(values)]

    return score


def _from_column(group: Group, place: int, entry: Any, column: str, kind: str) -> StepScores:
    where = f"problem {group.id}, response {place}, column {column}"
    if entry is not None and not isinstance(entry, list | float | int):
        raise ImplicitPRMError(f"{where}: expected a list of numbers or one number, got {entry!r}")
    rewards = _numbers([] if entry is None else entry if isinstance(entry, list) else [entry], kind, where)
    if group.steps is not None and len(rewards) > len(group.steps[place]):
        raise ImplicitPRMError(f"{where}: {len(rewards)} scores but {len(group.steps[place])} entries in column steps")
    prefixes = _running_sums(rewards) if kind == "log_ratio" else None
    return StepScores(group.completions[place], [], rewards, prefixes, kind, index=place)


def _running_sums(rewards: Sequence[float]) -> list[float]:
    return [math.fsum(rewards[: end + 1]) for end in range(len(rewards))]
