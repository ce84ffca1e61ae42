"""AutoPSV's step labels (Lu et al., arXiv 2405.16802): a step is wrong where a verifier's confidence drops.

The verifier is a value head trained on the response's outcome at the end of every step (`ipr-baseline kind=value_head
labels=outcome`), so its output there is the probability of a correct final answer. The paper trains it with squared
error. We use cross-entropy, which has the same minimum and whose gradient does not vanish where the sigmoid saturates.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from typing import Any

from implicit_prm.baselines.labels.labeller import LabelledGroup
from implicit_prm.baselines.reward_model import RewardModel
from implicit_prm.config import AutoPSVConfig
from implicit_prm.models.source import ModelSource
from implicit_prm.scoring.scorers import check_lengths, group_scorer
from implicit_prm.types import Group, ImplicitPRMError, TokenCounts


class AutoPSV:
    """Label steps from a verifier's confidence; see `labels_of`. The column `step_confidences` holds the confidences.

    Raises:
        ImplicitPRMError: the verifier cannot be opened, or was not trained on outcomes at every step.
    """

    def __init__(self, config: AutoPSVConfig) -> None:
        self._config = config
        source = ModelSource.resolve(
            config.verifier, config.verifier_revision, trust_remote_code=config.trust_remote_code
        )
        self._verifier = RewardModel.from_source(source, dtype=config.dtype)
        metadata = self._verifier.metadata
        if metadata.kind == "orm" or metadata.labels != "outcome":
            raise ImplicitPRMError(
                f"verifier={config.verifier} was trained with kind={metadata.kind} labels={metadata.labels}; AutoPSV "
                "needs a verifier trained on the outcome at every step: ipr-baseline kind=value_head labels=outcome"
            )
        self.identity: dict[str, Any] = {"weights": source.identity}

    def label(self, groups: Sequence[Group], done: Container[str]) -> Iterator[LabelledGroup]:
        """Label the groups whose id is not in `done`, in order."""
        waiting = [group for group in groups if group.id not in done]
        check_lengths(waiting, self._verifier)
        score = group_scorer(self._verifier, self._config.max_tokens_per_batch)
        for group in waiting:
            confidences = [scores.step_rewards for scores in score(group)]
            labels = labels_of(confidences, self._config.threshold)
            yield LabelledGroup(group, labels, self._tokens(group), {"step_confidences": confidences})

    def _tokens(self, group: Group) -> TokenCounts:
        """Tokens of one scoring pass, which encodes the prompt with every response."""
        encoder = self._verifier.encoder
        given = group.steps if encoder.text.steps == "given" else None
        lengths = self._verifier.lengths(group.prompt, group.completions, group.finished, given)
        prompt_tokens = len(encoder.prompt_ids(group.prompt)) * len(group)
        return TokenCounts(len(group), len(group), prompt_tokens, sum(lengths) - prompt_tokens)


def labels_of(confidences: Sequence[Sequence[float]], threshold: float) -> list[list[float]]:
    """Label steps before the first drop in confidence 1, and all steps from the drop on 0, as the authors' code does.

    A drop is a relative change of confidence below `threshold`: (c_t - c_{t-1}) / c_{t-1}. The confidence before the
    first step, c_0, is estimated as the mean of c_1 over the problem's responses, since c_0 is the expectation of c_1
    over the policy's first steps.

    Args:
        confidences: one list per response to the same problem, one probability per step.
        threshold: a negative number; -0.5 is a fall to less than half.

    Returns:
        1.0 or 0.0 for every step of every response.

    Example:
        >>> labels_of([[0.5, 0.6, 0.2, 0.9], [0.1, 0.1]], threshold=-0.5)
        [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0]]
    """
    first = [steps[0] for steps in confidences if steps]
    initial = math.fsum(first) / len(first) if first else 0.0
    labels = []
    for steps in confidences:
        previous, correct, response_labels = initial, True, []
        for confidence in steps:
            correct = correct and confidence - previous >= threshold * previous
            response_labels.append(float(correct))
            previous = confidence
        labels.append(response_labels)
    return labels
