"""Options of `ipr-score`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from implicit_prm.config.checkpoint import CheckpointConfig
from implicit_prm.config.models import StepRule
from implicit_prm.config.validation import check_range
from implicit_prm.types import ImplicitPRMError


@dataclass(kw_only=True)
class ScoreConfig(CheckpointConfig):
    """`ipr-score`: score the responses of a file or dataset of any size, in shards.

    Args:
        input: Responses to score: a file, a folder or a hub dataset.
        output_dir: Folder for scores.parquet and the parts it is merged from.
        split: Split of a folder or hub dataset.
        input_revision: Branch, tag or commit of a hub dataset.
        steps: Step rule; None as in training.
        too_long: What to do with a response longer than `max_length`: stop with an `error`, or score no step of it
            (`lowest`), so that it never wins.
        shard: `i/n` scores the i-th of n shares, from 1, and does not merge; None scores all parts and merges them.
        merge: Score nothing; merge what the shards have scored.
        responses_per_part: Number of responses that are written together.
        reference_cache: Folder for the reference's log-probabilities, of use if other checkpoints score the same
            responses; None keeps none.
    """

    input: str
    output_dir: str
    split: str = "train"
    input_revision: str | None = None
    steps: StepRule | None = None
    too_long: Literal["error", "lowest"] = "error"
    shard: str | None = None
    merge: bool = False
    responses_per_part: int = 1024
    reference_cache: str | None = None

    @property
    def shard_of(self) -> tuple[int, int]:
        """Number of the shard, from 1, and number of shards; (1, 1) without `shard`."""
        number, _, count = (self.shard or "1/1").partition("/")
        return int(number), int(count)

    def validate(self) -> None:
        if self.checkpoint is None:
            raise ImplicitPRMError("nothing to score with: set checkpoint=FOLDER (of ipr-train or ipr-baseline)")
        super().validate()
        if self.shard is not None:
            if not re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", self.shard) or not 1 <= self.shard_of[0] <= self.shard_of[1]:
                raise ImplicitPRMError(f"shard={self.shard}: expected i/n with i from 1 to n, such as shard=1/4")
            if self.merge:
                raise ImplicitPRMError(f"merge=true merges all shards; leave out shard={self.shard}")
        check_range(self, "responses_per_part", at_least=1)
