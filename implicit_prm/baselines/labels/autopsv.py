"""AutoPSV's step labels (Lu et al., arXiv 2405.16802): a step is wrong where a verifier's confidence drops.

The verifier is a value head that learnt the outcome at the end of every step (`ipr-baseline kind=value_head
labels=outcome`), so that its probability there is that of ending well. The paper fits it with squared error; here it is
cross-entropy, whose minimum is the same probability and whose gradient does not fade where the sigmoid is flat.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from typing import Any

from implicit_prm.baselines.labels.run import Labelled
from implicit_prm.baselines.reward_model import RewardModel
from implicit_prm.config import AutoPSVConfig
from implicit_prm.models import loading
from implicit_prm.scoring.store import check_lengths, model_scorer
from implicit_prm.types import Group, ImplicitPRMError, TokenCounts


class AutoPSV:
    """Labels with a verifier's confidence; see `labels_of`. The column `step_confidences` keeps it.

    Raises:
        ImplicitPRMError: the verifier cannot be opened, or has learnt something else than outcomes at every step.
    """

    def __init__(self, config: AutoPSVConfig) -> None:
        self._config = config
        self._verifier = RewardModel.from_pretrained(
            config.verifier,
            revision=config.verifier_revision,
            dtype=config.dtype,
            trust_remote_code=config.trust_remote_code,
        )
        settings = self._verifier.settings
        if settings.kind == "orm" or settings.labels != "outcome":
            raise ImplicitPRMError(
                f"verifier={config.verifier} is of kind={settings.kind} with labels={settings.labels}; AutoPSV takes "
                "one that learnt the outcome at every step: ipr-baseline kind=value_head labels=outcome"
            )
        self.identity: dict[str, Any] = {"weights": loading.weights_identity(config.verifier, config.verifier_revision)}

    def label(self, groups: Sequence[Group], done: Container[str]) -> Iterator[Labelled]:
        """The labels of the groups that are not `done`, in order."""
        waiting = [group for group in groups if group.id not in done]
        check_lengths(waiting, self._verifier)
        score = model_scorer(self._verifier, self._config.max_tokens_per_batch)
        for group in waiting:
            confidences = [one.step_rewards for one in score(group)]
            given = group.steps if self._verifier.encoder.text.steps == "given" else None
            lengths = self._verifier.lengths(group.prompt, group.completions, group.finished, given)
            prompts = len(self._verifier.encoder.prompt_ids(group.prompt)) * len(group)
            tokens = TokenCounts(len(group), len(group), prompts, sum(lengths) - prompts)
            labels = labels_of(confidences, self._config.threshold)
            yield Labelled(group, labels, tokens, {"step_confidences": confidences})


def labels_of(confidences: Sequence[Sequence[float]], threshold: float) -> list[list[float]]:
    """1 for steps before the first drop, 0 from there on, of all responses to one problem.

    A drop is a relative change of confidence below `threshold`: (c_t - c_{t-1}) / c_{t-1}. Everything behind it is
    wrong as well, as in the authors' code. The confidence before the first step, c_0, is the mean of what it is after
    it over the problem's responses, since the expectation of c_1 over the policy's first steps is c_0.

    Example:
        >>> labels_of([[0.5, 0.6, 0.2, 0.9], [0.1, 0.1]], threshold=-0.5)
        [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0]]
    """
    firsts = [some[0] for some in confidences if some]
    before_all = math.fsum(firsts) / len(firsts) if firsts else 0.0
    labels = []
    for some in confidences:
        before, right, found = before_all, True, []
        for confidence in some:
            right = right and confidence - before >= threshold * before
            found.append(float(right))
            before = confidence
        labels.append(found)
    return labels
