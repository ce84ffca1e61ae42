"""Scores of all groups, computed once: a parquet table that is written group by group and reused under the same key."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from implicit_prm.models.source import ModelSource
from implicit_prm.scoring.scorers import ScoreGroup
from implicit_prm.types import Group, ImplicitPRMError, StepScores, StepSpan, TokenSums
from implicit_prm.utils.distributed import Processes, processes
from implicit_prm.utils.io import atomic_write
from implicit_prm.utils.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "scores.parquet"
_KEY = b"implicit_prm.key"
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
        if not _is_current(part, key):
            _write(part, _to_table([groups[number]], [score(groups[number])]), key)

    with processes() as state:
        if not _is_current(final, key):
            _for_own_share(groups, state, keep)
            state.gather(None)
            if state.first:
                _write(final, pa.concat_tables(_read(_part(parts, n)) for n in range(len(groups))), key)
                shutil.rmtree(parts)
            state.gather(None)
    return _from_table(_read(final), groups)


def read_scores(folder: Path, groups: Sequence[Group]) -> list[list[StepScores]]:
    """The scores of these groups that `folder` holds, under whatever key.

    Raises:
        ImplicitPRMError: no scores in `folder`, of another number of responses, or in the columns of another version.
    """
    path = folder / FILE
    table = _read(path) if path.exists() else None
    if table is None or not table.schema.equals(_schema()):
        raise ImplicitPRMError(f"{path}: no scores in the columns of this version; evaluate again")
    if table.num_rows != sum(map(len, groups)):
        raise ImplicitPRMError(f"{path}: expected scores of {sum(map(len, groups))} responses, got {table.num_rows}")
    return _from_table(table, groups)


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
    current = _is_current(folder / FILE, key or "")
    if key is None or not current:
        _write(folder / FILE, _to_table(groups, scores), key or "")


def _for_own_share(groups: Sequence[Group], state: Processes, work: Callable[[int], None]) -> None:
    """Call `work` with the number of each group that is this process' to score."""
    # Not a contiguous share: neighbours in a file are often of one difficulty, hence of one length.
    mine = range(state.rank, len(groups), state.size)
    with progress("scoring", sum(len(groups[number]) for number in mine), state.first) as advance:
        for number in mine:
            work(number)
            advance(len(groups[number]))


def cache_key(groups: Sequence[Group], **scorer: Any) -> str:
    """Names what identifies a scorer, and what it scores: a change of either gives another key."""
    digest = hashlib.sha256(json.dumps([_VERSION, scorer], sort_keys=True, default=str).encode())
    for group in groups:
        what = [group.id, group.prompt, group.completions, group.finished, group.correctness, group.steps]
        digest.update(json.dumps(what).encode())
    return digest.hexdigest()[:16]


def checkpoint_identity(source: ModelSource) -> Any:
    """What changes when a checkpoint does: its files' names, sizes and times; the commit that a hub id stands for."""
    if source.commit is not None:
        return source.commit
    return sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in source.folder.glob("*.*") if f.is_file())


def _schema() -> pa.Schema:
    import pyarrow as pa

    counts, rewards = pa.list_(pa.int32()), pa.list_(pa.float64())
    sums = [(one.name, counts if one.name.endswith("_tokens") else rewards) for one in fields(TokenSums)]
    return pa.schema(
        [
            ("problem_id", pa.string()),
            ("response", pa.int32()),
            ("correct", pa.bool_()),
            ("finished", pa.bool_()),
            ("kind", pa.string()),
            ("step_rewards", pa.list_(pa.float64())),
            ("prefix_values", pa.list_(pa.float64())),
            ("step_starts", pa.list_(pa.int32())),
            ("step_ends", pa.list_(pa.int32())),
            ("reference_logprob", pa.float64()),
            ("step_tokens", pa.list_(pa.int32())),
            ("token_sums", pa.struct(sums)),
        ]
    )


def _is_current(path: Path, key: str) -> bool:
    """Whether the file holds scores under this key, in the columns of this version.

    Raises:
        ImplicitPRMError: it is no table of scores, so it must not be replaced by one.
    """
    import pyarrow.parquet as pq

    if not path.exists():
        return False
    with _clear_errors(path):
        schema = pq.read_schema(path)
    known = (schema.metadata or {}).get(_KEY)
    if known is None:
        raise ImplicitPRMError(f"{path} is not a table of scores by ipr-eval; choose another output_dir")
    return known == key.encode() and schema.equals(_schema())


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.parquet"


def _to_table(groups: Sequence[Group], scores: Sequence[Sequence[StepScores]]) -> pa.Table:
    import pyarrow as pa

    rows = (_to_rows(group, scored) for group, scored in zip(groups, scores, strict=True))
    return pa.concat_tables([pa.Table.from_pylist(some, schema=_schema()) for some in rows])  # not all rows at once


def _to_rows(group: Group, scores: Sequence[StepScores]) -> list[dict[str, Any]]:
    return [
        {
            "problem_id": group.id,
            "response": place,
            "correct": group.correctness[place],
            "finished": group.finished[place],
            "kind": one.kind,
            "step_rewards": one.step_rewards,
            "prefix_values": one.prefix_values,
            "step_starts": [span.start for span in one.spans],
            "step_ends": [span.end for span in one.spans],
            "reference_logprob": one.reference_logprob,
            "step_tokens": one.step_tokens,
            "token_sums": None if one.token_sums is None else asdict(one.token_sums),
        }
        for place, one in enumerate(scores)
    ]


def _from_table(table: pa.Table, groups: Sequence[Group]) -> list[list[StepScores]]:
    rows = iter(table.to_pylist())
    return [[_from_row(next(rows), place, text) for place, text in enumerate(g.completions)] for g in groups]


def _from_row(row: dict[str, Any], place: int, text: str) -> StepScores:
    return StepScores(
        response=text,
        spans=[StepSpan(*ends) for ends in zip(row["step_starts"], row["step_ends"], strict=True)],
        step_rewards=row["step_rewards"],
        prefix_values=row["prefix_values"],
        kind=row["kind"],
        index=place,
        reference_logprob=row["reference_logprob"],
        step_tokens=row["step_tokens"],
        token_sums=None if row["token_sums"] is None else TokenSums(**row["token_sums"]),
    )


def _read(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    with _clear_errors(path):
        return pq.read_table(path, page_checksum_verification=True)


def _write(path: Path, table: pa.Table, key: str) -> None:
    import pyarrow.parquet as pq

    with atomic_write(path) as stream:
        pq.write_table(table.replace_schema_metadata({_KEY: key.encode()}), stream, write_page_checksum=True)


@contextlib.contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # pyarrow raises many kinds
        raise ImplicitPRMError(
            f"{path}: {str(error).splitlines()[0]}; delete it, or choose another output_dir"
        ) from None
