"""`ipr-score`: the scores of a file or dataset of any size, shard by shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from implicit_prm.config import ScoreConfig, from_mapping
from implicit_prm.data.streaming import stream_groups
from implicit_prm.evaluation.scorer import open_checkpoint, scorer_identity
from implicit_prm.scoring.shards import Shard, ShardedScores
from implicit_prm.utils.distributed import processes, spoken_once
from implicit_prm.utils.lock import locked


def score_file(config: ScoreConfig, say: Callable[[str], None] = print) -> Path | None:
    """Score the parts of a shard that are not scored yet. Without a shard, merge all parts into one table.

    Several processes that were launched together share the parts. The model is opened only if a part is missing.

    Returns:
        The path of the table; None for a shard.

    Raises:
        ImplicitPRMError: anything wrong with options, input or checkpoint, a response that is too long, or, with
            `merge`, parts that are missing. With `too_long=error`, a part that was scored with `too_long=lowest` and
            leaves a response out is missing.
    """
    config = from_mapping(ScoreConfig, asdict(config))  # checked like one from YAML: it may have been made in Python
    say, folder = spoken_once(say), Path(config.output_dir)
    number, count = config.shard_of
    with locked(folder / f"shard-{number}-of-{count}"), processes() as state:
        identity = scorer_identity(config, config.steps)
        scores = ShardedScores(
            lambda: stream_groups(config.input, config.split, config.input_revision, option="input"),
            identity,
            folder,
            config.responses_per_part,
            config.too_long,
        )
        say(f"{config.input}: {scores.responses:,} responses in {len(scores.parts):,} parts")
        if not config.merge:
            missing = scores.missing(Shard(number - 1, count).share(state.rank, state.size))
            if missing:
                _score(config, scores, missing, state.first)
            state.gather(None)
        if config.shard is not None:
            say(f"shard {config.shard}: complete. When all shards are, merge=true in the place of shard merges them")
            return None
        path = scores.merge() if state.first else scores.table
        state.gather(None)
    say(f"scores: {path}")
    return path


def _score(config: ScoreConfig, scores: ShardedScores, parts: list[int], shown: bool) -> None:
    scorer = open_checkpoint(config, config.steps, skip_too_long=config.too_long == "lowest")
    try:
        scores.score(parts, scorer.score, shown)
    finally:  # keep what an interrupted run has computed with the reference, too
        scorer.flush()
