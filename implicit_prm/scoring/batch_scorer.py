"""A scorer for batches of rows, as `datasets.Dataset.map(batched=True)` and Ray Data's `map_batches` pass them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from implicit_prm.data.columns import CHOSEN, COMPLETIONS
from implicit_prm.data.streaming import groups_in_order
from implicit_prm.scoring.scorers import group_scorer
from implicit_prm.types import ImplicitPRMError, Scorer

COLUMN = "step_rewards"


class BatchScorer:
    """Adds the column `step_rewards` to batches of grouped rows, or of rows of one response each.

    Responses to one prompt share its forward pass if they are in one row, or in rows next to each other.

    Examples:
        >>> dataset.map(BatchScorer("outputs/ce"), batched=True, batch_size=64)
        >>> pool = ray.data.ActorPoolStrategy(size=4)
        >>> ray.data.read_json("rows.jsonl").map_batches(BatchScorer, fn_constructor_args=["outputs/ce"], compute=pool)

    Args:
        scorer: folder or hub id of an implicit PRM, which every process opens for itself; or a `Scorer`, such as a
            `RewardModel`.
        max_tokens: in one forward pass; None leaves it to the scorer.
        too_long: what happens to a response over the scorer's limit: `error`, or `lowest`, which scores no step of it.
        options: arguments of `ImplicitPRM.from_pretrained`.

    Raises:
        ImplicitPRMError: the model cannot be opened, or options for a scorer that is open already.
    """

    def __init__(
        self, scorer: Scorer | str | Path, *, max_tokens: int | None = None, too_long: str = "error", **options: Any
    ) -> None:
        self._arguments = (scorer,), {"max_tokens": max_tokens, "too_long": too_long, **options}
        self.identity: Any = None
        if isinstance(scorer, str | Path):
            scorer, self.identity = _open(scorer, options)
        elif options:
            raise ImplicitPRMError(f"{', '.join(options)}: not for a scorer that is an object")
        self._score = group_scorer(scorer, max_tokens, too_long)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Score the rows of a batch.

        Args:
            batch: columns by name, each a list or a NumPy array: `prompt` and `completions`, or `prompt` and
                `completion`, under any name of `implicit_prm.data.columns`; optionally `finished` and `steps`.

        Returns:
            The batch with the column `step_rewards`: for each response a list with one number per step. A grouped row
            has one such list for each of its responses.

        Raises:
            ImplicitPRMError: invalid rows, pairs, a column of that name, or what the scorer raises.
        """
        if COLUMN in batch or CHOSEN[0] in batch:
            raise ImplicitPRMError(
                f"a batch with the columns {', '.join(batch)}: expected rows with prompt and completions, or with "
                f"prompt and completion, and no column {COLUMN}"
            )
        columns = {name: _plain(values) for name, values in batch.items()}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        places = (f"row {number} of the batch" for number in range(1, len(rows) + 1))
        scored: list[Any] = []
        for _, group, _ in groups_in_order(zip(places, rows, strict=True)):
            rewards = [one.step_rewards for one in self._score(group)]
            scored += [rewards] if any(name in columns for name in COMPLETIONS) else rewards
        return {**batch, COLUMN: scored}

    def __reduce__(self) -> Any:
        """Pickle the arguments and not the weights: processes open the model themselves, and `datasets` hashes it."""
        (scorer,), options = self._arguments
        return partial(BatchScorer, **options), (scorer,), {"identity": self.identity}


def _open(path_or_id: str | Path, options: Mapping[str, Any]) -> tuple[Scorer, Any]:
    """An implicit PRM, and what changes when its checkpoint does."""
    from implicit_prm.models.implicit_prm import ImplicitPRM  # imports transformers
    from implicit_prm.models.source import ModelSource
    from implicit_prm.scoring.store import checkpoint_identity

    source = ModelSource.resolve(path_or_id, options.get("revision"), options.get("token"))
    return ImplicitPRM.from_pretrained(path_or_id, **options), checkpoint_identity(source)


def _plain(values: Any) -> Any:
    """NumPy arrays, which Ray passes, as lists of Python objects."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, str) or not isinstance(values, Sequence):
        return values
    return [_plain(value) for value in values]
