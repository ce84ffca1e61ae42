"""What an evaluation scores with: opened from options, or given as an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from implicit_prm.baselines.reward_model import RewardModel
from implicit_prm.config import CheckpointConfig, Over, ScorerConfig, StepRule
from implicit_prm.models.checkpoint import NONE, BaselineMetadata
from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.models.source import ModelSource
from implicit_prm.scoring.scorers import ScoreGroup, check_lengths, column_scorer, group_scorer
from implicit_prm.scoring.store import cache_key, checkpoint_identity, score_all, score_in_memory, write_scores
from implicit_prm.types import Group, ImplicitPRMError, Scorer, StepScores
from implicit_prm.utils.distributed import is_first


@dataclass(frozen=True)
class OpenScorer:
    """A function that scores a group, and what is known of it.

    Attributes:
        name: for the report: the checkpoint, the column, or the object's class.
        score: scores one group.
        model: the scorer behind `score`; None for a column.
        column: of the candidates, if scores are read from one.
        identity: names the scores for the store; None for an object, which may have changed since the last run.
        by_step: false for an outcome model, whose one score says nothing about single steps.
    """

    name: str
    score: ScoreGroup
    model: Scorer | None = None
    column: str | None = None
    identity: dict[str, Any] | None = None
    by_step: bool = True

    @property
    def beta(self) -> float | None:
        """Beta of an implicit PRM with a reference; None for other scorers, whose values are no log-ratios in nats."""
        if isinstance(self.model, ImplicitPRM) and self.model.metadata.reference != NONE:
            return self.model.metadata.beta
        return None

    def check(self, groups: Sequence[Group], lengths: bool) -> None:
        """Refuse a column that cannot be read and, with `lengths`, a response that is too long."""
        if self.column is not None:
            for group in groups:
                self.score(group)
        elif lengths and self.model is not None:
            check_lengths(groups, self.model)

    def key(self, groups: Sequence[Group]) -> str:
        """Names the scores of these groups by this scorer: a change of either gives another key."""
        columns: dict[str, Any] = {}
        if self.column is not None:  # labels too: such a table is written anew, not brought up to date
            columns = {"values": [g.extra.get(self.column) for g in groups], "labels": [g.correctness for g in groups]}
        return cache_key(groups, **(self.identity or {}), **columns)

    def score_all(self, groups: Sequence[Group], folder: Path | None) -> list[list[StepScores]]:
        """Scores of every group; kept in `folder`, and read from there if the scorer is one that can be named.

        Raises:
            ImplicitPRMError: what the scorer raises, or log-ratios and probabilities in one run.
        """
        try:
            if self.column is not None:  # every process has read it
                scores = list(map(self.score, groups))
                if folder is not None and is_first():
                    write_scores(groups, scores, folder, self.key(groups))
            elif folder is not None and self.identity is not None:
                scores = score_all(groups, self.score, folder, self.key(groups))
            else:
                scores = score_in_memory(groups, self.score)
                if folder is not None and is_first():
                    write_scores(groups, scores, folder)
        finally:
            self.flush()
        kinds = {one.kind for some in scores for one in some if one.step_rewards}
        if len(kinds) > 1:
            raise ImplicitPRMError(f"{self.name}: scores of both kinds, {' and '.join(sorted(kinds))}; expected one")
        return scores

    def flush(self) -> None:
        """Write what was computed with the reference to its cache; call it after an interruption, too."""
        if isinstance(self.model, ImplicitPRM) and self.model.reference_cache is not None:
            self.model.reference_cache.flush()


def open_scorer(config: ScorerConfig, steps: StepRule | None, skip_too_long: bool) -> OpenScorer:
    """The column or checkpoint that `config` names.

    Args:
        config: options.
        steps: step rule; None takes the checkpoint's.
        skip_too_long: a response over the limit gets no step scores instead of stopping the run.
    """
    column = config.scores_column
    if column is not None:
        identity: dict[str, Any] = {"column": column, "kind": config.scores_kind}
        return OpenScorer(column, column_scorer(column, config.scores_kind), column=column, identity=identity)
    return open_checkpoint(config, steps, skip_too_long, config.over)


def open_checkpoint(
    config: CheckpointConfig, steps: StepRule | None, skip_too_long: bool, over: Over = "step"
) -> OpenScorer:
    """The checkpoint that `config` names: an implicit PRM or an explicit reward model.

    Args:
        config: options.
        steps: step rule; None takes the checkpoint's.
        skip_too_long: a response over the limit gets no step scores instead of an error.
        over: the values that will be read; explicit reward models have only those of `step`.
    """
    too_long = "lowest" if skip_too_long else "error"
    source = _source(config)
    if isinstance(source.metadata, BaselineMetadata):
        return _open_baseline(config, source, steps, too_long, over)
    prm = ImplicitPRM.from_source(
        source,
        config.reference,
        config.beta,
        steps=steps,
        prompt_template=config.prompt_template,
        max_length=config.max_length,
        dtype=config.dtype,
        quantization=config.quantization,
    )
    if config.reference_cache is not None:
        prm.open_reference_cache(None if config.reference_cache == "default" else config.reference_cache)
    score = group_scorer(prm, config.max_tokens_per_batch, too_long)
    return OpenScorer(source.name, score, prm, identity=_identity(config, steps, source))


def scorer_identity(config: CheckpointConfig, steps: StepRule | None) -> dict[str, Any]:
    """`OpenScorer.identity` of the checkpoint that `config` names. The model is not opened.

    Raises:
        ImplicitPRMError: the checkpoint cannot be found.
    """
    return _identity(config, steps, _source(config))


def _source(config: CheckpointConfig) -> ModelSource:
    assert config.checkpoint is not None  # the command's config has checked it
    return ModelSource.resolve(config.checkpoint, config.revision, trust_remote_code=config.trust_remote_code)


def _identity(config: CheckpointConfig, steps: StepRule | None, source: ModelSource) -> dict[str, Any]:
    """All that scores depend on: the checkpoint's files, and the options that change what it does."""
    changing = ("reference", "beta", "prompt_template", "max_length", "dtype", "quantization")
    options = {name: getattr(config, name) for name in changing}
    return {**options, "steps": steps, "checkpoint": checkpoint_identity(source)}


def _open_baseline(
    config: CheckpointConfig, source: ModelSource, steps: StepRule | None, too_long: str, over: Over
) -> OpenScorer:
    """An explicit reward model. It has no log-ratio, so options that concern one are refused."""
    for key in ("reference", "beta", "quantization"):
        if getattr(config, key) is not None:
            raise ImplicitPRMError(f"{key}: {source.name} is an explicit reward model, which has none; leave it out")
    if over != "step":
        raise ImplicitPRMError(
            f"over={over}: {source.name} gives probabilities, without prefix values or token counts; set over=step"
        )
    model = RewardModel.from_source(
        source,
        steps=steps,
        prompt_template=config.prompt_template,
        max_length=config.max_length,
        dtype=config.dtype,
    )
    score = group_scorer(model, config.max_tokens_per_batch, too_long)
    by_step = model.metadata.kind != "orm"
    return OpenScorer(source.name, score, model, identity=_identity(config, steps, source), by_step=by_step)


def wrap_scorer(scorer: Scorer, config: ScorerConfig, skip_too_long: bool) -> OpenScorer:
    """An object with `score(problem, responses)`; `config` may hold no option that is for opening a checkpoint."""
    score = group_scorer(scorer, config.max_tokens_per_batch, "lowest" if skip_too_long else "error")
    by_step = not (isinstance(scorer, RewardModel) and scorer.metadata.kind == "orm")
    return OpenScorer(type(scorer).__name__, score, scorer, by_step=by_step)


def kind_of(scores: Sequence[Sequence[StepScores]]) -> str:
    """The kind of all scores: that of the first response with a scored step, or of the first one if there is none."""
    every = [one for some in scores for one in some]
    scored = [one for one in every if one.step_rewards]
    return (scored or every)[0].kind if every else "log_ratio"


def have_steps(scores: Sequence[Sequence[StepScores]]) -> bool:
    """Whether any response has more than one step score; outcome scores say nothing about steps."""
    return any(len(one.step_rewards) > 1 for some in scores for one in some)
