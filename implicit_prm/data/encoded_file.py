"""Encoded groups in an Arrow file that is memory-mapped: processes that read it share one copy of the tokens."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from implicit_prm.data.tokenization import EncodedGroup, TrainingResponse
from implicit_prm.utils.io import atomic_write

_BATCH = 64  # groups in a record batch; all but the last one have as many


def write_groups(path: Path, groups: Iterable[EncodedGroup]) -> None:
    """Write groups to an Arrow file, completely or not at all.

    Raises:
        ImplicitPRMError: the disk is full, or the file cannot be written.
    """
    remaining, writer = iter(groups), None
    with atomic_write(path) as stream:
        while some := list(itertools.islice(remaining, _BATCH)):
            batch = _record_batch(some)
            writer = writer or pa.ipc.new_file(stream, batch.schema)
            writer.write_batch(batch)
        if writer is not None:
            writer.close()


class EncodedFile(Sequence[EncodedGroup]):
    """The groups of a file that `write_groups` wrote. Token ids stay on disk until they are used.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [_Columns(reader.get_batch(number)) for number in range(reader.num_record_batches)]

    def __reduce__(self) -> tuple[Any, ...]:
        return EncodedFile, (self.path,)  # for data workers

    def __len__(self) -> int:
        return sum(map(len, self._batches[-1:])) + _BATCH * (len(self._batches) - 1)

    def __getitem__(self, place: int) -> EncodedGroup:  # type: ignore[override]
        if not 0 <= place < len(self):
            raise IndexError(place)
        batch, row = divmod(place, _BATCH)
        return self._batches[batch].group(row)

    def __iter__(self) -> Iterator[EncodedGroup]:
        return (batch.group(row) for batch in self._batches for row in range(len(batch)))


class _Columns:
    """The columns of a record batch as numpy arrays. `responses[g]` is the first response of group g."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.names, self.keys = batch["name"], batch["key"].values
        self.prompts, self.labels = _Lists(batch["prompt_ids"]), _Lists(batch["labels"])
        self.responses = batch["ids"].offsets.to_numpy()
        self.ids, self.step_sizes = _Lists(batch["ids"].values), _Lists(batch["step_sizes"].values)
        self.step_labels = _Lists(batch["step_labels"].values) if "step_labels" in batch.schema.names else None

    def __len__(self) -> int:
        return len(self.names)

    def group(self, row: int) -> EncodedGroup:
        responses = [
            TrainingResponse(
                self.ids[place],
                self.step_sizes[place],
                self.keys[place].as_py(),
                None if self.step_labels is None else self.step_labels[place],
            )
            for place in range(self.responses[row], self.responses[row + 1])
        ]
        labels = [bool(label) for label in self.labels[row]]
        return EncodedGroup(self.names[row].as_py(), self.prompts[row], responses, labels)


class _Lists:
    """A column of lists of numbers. The lists are views of the file, which behave as `array.array` does."""

    def __init__(self, column: pa.ListArray) -> None:
        self.offsets, self.values = column.offsets.to_numpy(), memoryview(column.values.to_numpy())

    def __getitem__(self, place: int) -> Any:
        return self.values[self.offsets[place] : self.offsets[place + 1]]


def _record_batch(groups: Sequence[EncodedGroup]) -> pa.RecordBatch:
    responses = [response for group in groups for response in group.responses]
    sizes = [len(group.responses) for group in groups]
    columns: dict[str, pa.Array] = {
        "name": pa.array([group.name for group in groups]),
        "prompt_ids": _lists([group.prompt_ids for group in groups], np.int32),
        "labels": _lists([group.labels for group in groups], np.uint8),
        "ids": _nested(sizes, _lists([response.ids for response in responses], np.int32)),
        "step_sizes": _nested(sizes, _lists([response.step_sizes for response in responses], np.int32)),
        "key": _nested(sizes, pa.array([response.key for response in responses], pa.binary(16))),
    }
    if responses[0].step_labels is not None:
        labels = [response.step_labels or [] for response in responses]
        columns["step_labels"] = _nested(sizes, _lists(labels, np.float32))
    return pa.record_batch(columns)


def _lists(lists: Sequence[Sequence[float]], dtype: type) -> pa.ListArray:
    values = np.concatenate([np.asarray(some, dtype=dtype) for some in lists])
    return _nested([len(some) for some in lists], pa.array(values))


def _nested(sizes: Sequence[int], values: pa.Array) -> pa.ListArray:
    """Lists of these sizes, which together are `values`."""
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *sizes], dtype=np.int32)), values)
