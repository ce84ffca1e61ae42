"""The table of scores: its columns, and reading and writing it as parquet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from implicit_prm.types import Group, ImplicitPRMError, StepScores, StepSpan, TokenSums
from implicit_prm.utils.io import atomic_write

if TYPE_CHECKING:
    import pyarrow as pa

_KEY = b"implicit_prm.key"


def table_schema() -> pa.Schema:
    """The columns of a table of scores, one row per response."""
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


def is_current(path: Path, key: str) -> bool:
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
        raise ImplicitPRMError(f"{path} is not a table of scores by implicit-prm; choose another output_dir")
    return known == key.encode() and schema.equals(table_schema())


def to_table(groups: Sequence[Group], scores: Sequence[Sequence[StepScores]]) -> pa.Table:
    """The scores of every response of these groups, as rows of a table."""
    import pyarrow as pa

    rows = (_to_rows(group, scored) for group, scored in zip(groups, scores, strict=True))
    return pa.concat_tables(
        [pa.Table.from_pylist(some, schema=table_schema()) for some in rows]
    )  # not all rows at once


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


def from_table(table: pa.Table, groups: Sequence[Group]) -> list[list[StepScores]]:
    """The scores of these groups, which are the rows of the table in order."""
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


def with_labels(table: pa.Table, groups: Iterable[Group]) -> pa.Table:
    """The table with the labels of these groups, which may have been graded anew since they were scored."""
    import pyarrow as pa

    labels = pa.chunked_array([[label for group in groups for label in group.correctness]], pa.bool_())
    return table.set_column(table.schema.get_field_index("correct"), "correct", labels)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table of scores, or some columns of it.

    Raises:
        ImplicitPRMError: it is damaged.
    """
    import pyarrow.parquet as pq

    with _clear_errors(path):
        return pq.read_table(path, columns=columns, page_checksum_verification=True)


def count_without_steps(path: Path) -> int:
    """Number of responses in a table of scores for which no step is scored: empty ones, and those that are too long.

    Raises:
        ImplicitPRMError: the table is damaged.
    """
    rewards = read_table(path, ["step_rewards"])["step_rewards"].to_pylist()
    return sum(not steps for steps in rewards)


def write_table(path: Path, table: pa.Table, key: str) -> None:
    """Write a table of scores under a key, atomically."""
    import pyarrow.parquet as pq

    with atomic_write(path) as stream:
        pq.write_table(table.replace_schema_metadata({_KEY: key.encode()}), stream, write_page_checksum=True)


def write_tables(path: Path, tables: Iterable[pa.Table], key: str) -> None:
    """Write the rows of several tables as one under a key, atomically. One of them is in memory at a time."""
    import pyarrow.parquet as pq

    schema = table_schema().with_metadata({_KEY: key.encode()})
    with atomic_write(path) as stream, pq.ParquetWriter(stream, schema, write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table)


@contextlib.contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # pyarrow raises many kinds
        raise ImplicitPRMError(
            f"{path}: {str(error).splitlines()[0]}; delete it, or choose another output_dir"
        ) from None
