"""Any `Scorer` as a guide: every prefix is scored from its beginning, each text once."""

from __future__ import annotations

from collections.abc import Sequence

from implicit_prm.models.checkpoint import NONE
from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.scoring.scorers import MeasuresLength, ScoreGroup
from implicit_prm.search.protocols import Prefix
from implicit_prm.types import Group, Problem, Prompt, Scorer, StepScores


class RescoringGuide:
    """Scores the prefixes of responses to one problem, see `Guide`.

    Args:
        score: scores a group.
        scorer: what is behind `score`, to count its tokens.
        problem: the problem.
        prompt: its prompt, as the generator gets it.
    """

    def __init__(self, score: ScoreGroup, scorer: Scorer, problem: Problem, prompt: Prompt) -> None:
        self._score, self._scorer, self._problem, self._prompt = score, scorer, problem, prompt
        self._known: dict[tuple[str, bool], StepScores] = {}
        self.tokens: int | None = 0

    def score(self, prefixes: Sequence[Prefix], parents: Sequence[int]) -> list[StepScores]:
        """Score the prefixes that were not scored before; see `Guide`."""
        keys = [(prefix.text, prefix.finished) for prefix in prefixes]
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        if new:
            texts, finished = [text for text, _ in new], [ended for _, ended in new]
            group = Group(self._problem.id, self._prompt, texts, [None] * len(new), finished)
            self._known |= zip(new, self._score(group), strict=True)
            tokens = forward_tokens(self._scorer, group)
            self.tokens = None if tokens is None or self.tokens is None else self.tokens + tokens
        return [self._known[key] for key in keys]


def forward_tokens(scorer: Scorer, group: Group) -> int | None:
    """Tokens that a scorer computes to score a group: those of all of its models. None if it has no `lengths`."""
    if not isinstance(scorer, MeasuresLength):
        return None
    lengths = scorer.lengths(group.prompt, group.completions, group.finished)
    if isinstance(scorer, ImplicitPRM):  # it computes the prompt once, and two models
        prompt = len(scorer.encoder.prompt_ids(group.prompt))
        models = 1 if scorer.metadata.reference == NONE else 2
        return models * (prompt + sum(lengths) - prompt * len(lengths))
    return sum(lengths)
