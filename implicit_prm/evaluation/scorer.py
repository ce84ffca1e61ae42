"""From options to what scores: an implicit PRM that is opened, or a column of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from implicit_prm.baselines.reward_model import RewardModel, saved_settings
from implicit_prm.config import ScorerConfig, StepRule
from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.scoring.store import (
    ScoreGroup,
    ScoringModel,
    cache_key,
    checkpoint_identity,
    column_scorer,
    model_scorer,
    score_all,
)
from implicit_prm.types import Group, ImplicitPRMError, StepScores


@dataclass(frozen=True)
class OpenScorer:
    """A function that scores a group, and what names its scores. `prm` is None for scores from a column.

    `by_step` is false where a response has one score, which says nothing of its steps.
    """

    score: ScoreGroup
    identity: dict[str, Any]
    prm: ScoringModel | None = None
    column: str | None = None
    by_step: bool = True

    def key(self, groups: Sequence[Group]) -> str:
        """Names the scores of these groups by this scorer: a change of either gives another key."""
        values = {} if self.column is None else {"values": [group.extra.get(self.column) for group in groups]}
        return cache_key(groups, **self.identity, **values)

    def score_all(self, groups: Sequence[Group], folder: Path, key: str) -> list[list[StepScores]]:
        """Scores of every group, kept in `folder` as they come, under `key`; see `scoring.score_all`."""
        try:
            return score_all(groups, self.score, folder, key)
        finally:  # what an interrupted run has computed of the reference is kept, too
            if isinstance(self.prm, ImplicitPRM) and self.prm.reference_cache is not None:
                self.prm.reference_cache.flush()


def open_scorer(config: ScorerConfig, steps: StepRule | None, skip_too_long: bool) -> OpenScorer:
    """What `config` names.

    Args:
        steps: step rule; None takes the checkpoint's.
        skip_too_long: a response over the model's context gets no step scores instead of stopping the run.
    """
    column = config.scores_column
    if column is not None:
        read = column_scorer(column, config.scores_kind)
        return OpenScorer(read, {"column": column, "kind": config.scores_kind}, column=column)
    assert config.checkpoint is not None  # ScorerConfig.validate
    too_long = "lowest" if skip_too_long else "error"
    if saved_settings(config.checkpoint, config.revision) is not None:
        return _open_baseline(config, config.checkpoint, steps, too_long)
    prm = ImplicitPRM.from_pretrained(
        config.checkpoint,
        config.reference,
        config.beta,
        steps=steps,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        prompt_template=config.prompt_template,
        max_length=config.max_length,
        dtype=config.dtype,
        quantization=config.quantization,
    )
    identity = {
        "settings": asdict(prm.settings),
        "limit_tokens": prm.limit_tokens,
        "weights": checkpoint_identity(config.checkpoint, config.revision),
        "checkpoint": config.checkpoint,
        "dtype": config.dtype,
        "quantization": config.quantization,
    }
    if config.reference_cache is not None:
        prm.open_reference_cache(None if config.reference_cache == "default" else config.reference_cache)
    return OpenScorer(model_scorer(prm, config.max_tokens_per_batch, too_long), identity, prm)


def _open_baseline(config: ScorerConfig, checkpoint: str, steps: StepRule | None, too_long: str) -> OpenScorer:
    """An explicit reward model, which has no log-ratio: what only concerns that is refused."""
    for key in ("reference", "beta", "quantization"):
        if getattr(config, key) is not None:
            raise ImplicitPRMError(f"{key}: {checkpoint} is an explicit reward model, which has none; leave it out")
    if config.over == "prefix":
        raise ImplicitPRMError(
            f"over=prefix: {checkpoint} gives probabilities, which have no prefix values; set over=step"
        )
    model = RewardModel.from_pretrained(
        checkpoint,
        steps=steps,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        prompt_template=config.prompt_template,
        dtype=config.dtype,
    )
    identity = {
        "baseline": asdict(model.settings),
        "weights": checkpoint_identity(checkpoint, config.revision),
        "checkpoint": checkpoint,
        "dtype": config.dtype,
    }
    score = model_scorer(model, config.max_tokens_per_batch, too_long)
    return OpenScorer(score, identity, model, by_step=model.settings.kind != "orm")
