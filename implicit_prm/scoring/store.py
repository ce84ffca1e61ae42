"""Scores of all groups, computed once: a parquet table that is written group by group and reused under the same key."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from implicit_prm.models.source import ModelSource
from implicit_prm.scoring.scorers import ScoreGroup
from implicit_prm.scoring.table import (
    from_table,
    is_current,
    read_table,
    table_schema,
    to_table,
    with_labels,
    write_table,
)
from implicit_prm.types import Group, ImplicitPRMError, StepScores
from implicit_prm.utils.distributed import Processes, processes
from implicit_prm.utils.progress import progress

FILE = "scores.parquet"
_VERSION = 2  # raise it when the same scorer and responses give other scores, as after a change of step splitting


def score_all(groups: Sequence[Group], score: ScoreGroup, folder: Path, key: str) -> list[list[StepScores]]:
    """Scores of every group, kept in `folder/scores.parquet` under `key`, which names scorer and candidates.

    Scores that are there under the same key, in the columns of this version, are read instead of computed: an
    interrupted run resumes at the problem that was being scored, and another aggregate costs no forward pass.
    Several processes score a share of the problems each, and all of them return all scores.
    """
    import pyarrow as pa

    final, parts = folder / FILE, folder / f"parts-{key}"

    def keep(number: int) -> None:
        part = _part(parts, number)
        if not is_current(part, key):
            write_table(part, to_table([groups[number]], [score(groups[number])]), key)

    with processes() as state:
        if not is_current(final, key):
            _for_own_share(groups, state, keep)
            state.gather(None)
            if state.first:
                write_table(final, pa.concat_tables(read_table(_part(parts, n)) for n in range(len(groups))), key)
                shutil.rmtree(parts)
            state.gather(None)
        table = read_table(final)
        labelled = with_labels(table, groups)
        if state.first and not labelled.equals(table):
            write_table(final, labelled, key)
    return from_table(table, groups)


def read_scores(folder: Path, groups: Sequence[Group]) -> list[list[StepScores]]:
    """The scores of these groups that `folder` holds, under whatever key.

    Raises:
        ImplicitPRMError: no scores in `folder`, of another number of responses, or in the columns of another version.
    """
    path = folder / FILE
    table = read_table(path) if path.exists() else None
    if table is None or not table.schema.equals(table_schema()):
        raise ImplicitPRMError(f"{path}: no scores in the columns of this version; evaluate again")
    if table.num_rows != sum(map(len, groups)):
        raise ImplicitPRMError(f"{path}: expected scores of {sum(map(len, groups))} responses, got {table.num_rows}")
    return from_table(table, groups)


def score_in_memory(groups: Sequence[Group], score: ScoreGroup) -> list[list[StepScores]]:
    """Scores of every group, kept nowhere. Several processes score a share each, and all of them return all scores."""
    own: dict[int, list[StepScores]] = {}

    def keep(number: int) -> None:
        own[number] = score(groups[number])

    with processes() as state:
        _for_own_share(groups, state, keep)
        shares = state.gather(own)
    found = {number: scores for share in shares for number, scores in share.items()}
    return [found[number] for number in range(len(groups))]


def write_scores(
    groups: Sequence[Group], scores: Sequence[Sequence[StepScores]], folder: Path, key: str | None = None
) -> None:
    """Write `folder/scores.parquet`, unless it is there under this key. Without a key, no run reads it."""
    current = is_current(folder / FILE, key or "")
    if key is None or not current:
        write_table(folder / FILE, to_table(groups, scores), key or "")


def _for_own_share(groups: Sequence[Group], state: Processes, work: Callable[[int], None]) -> None:
    """Call `work` with the number of each group that is this process' to score."""
    # Not a contiguous share: neighbours in a file are often of one difficulty, hence of one length.
    mine = range(state.rank, len(groups), state.size)
    with progress("scoring", sum(len(groups[number]) for number in mine), state.first) as advance:
        for number in mine:
            work(number)
            advance(len(groups[number]))


class ScoresKey:
    """Names what identifies a scorer, and what it scores: a change of either gives another key.

    Labels are left out, as no score depends on them.
    """

    def __init__(self, **scorer: Any) -> None:
        self._digest = hashlib.sha256(json.dumps([_VERSION, scorer], sort_keys=True, default=str).encode())

    def add(self, group: Group) -> None:
        """Add the next group that is scored."""
        what = [group.id, group.prompt, group.completions, group.finished, group.steps]
        self._digest.update(json.dumps(what).encode())

    def __str__(self) -> str:
        return self._digest.hexdigest()[:16]


def cache_key(groups: Iterable[Group], **scorer: Any) -> str:
    """The `ScoresKey` of these groups by this scorer."""
    key = ScoresKey(**scorer)
    for group in groups:
        key.add(group)
    return str(key)


def checkpoint_identity(source: ModelSource) -> Any:
    """What changes when a checkpoint does: its files' names, sizes and times; the commit that a hub id stands for."""
    if source.commit is not None:
        return source.commit
    return sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in source.folder.glob("*.*") if f.is_file())


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.parquet"
