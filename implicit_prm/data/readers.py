"""Read the rows of a source: a file, a folder, a dataset of the hub, or rows in memory."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, Union, cast

from implicit_prm.data.columns import KNOWN, LABEL
from implicit_prm.data.hub import DataFile, folder_files, hub_files
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.io import clear_os_errors, file_digest
from implicit_prm.utils.unicode import LONE_SURROGATE

_LFS = b"version https://git-lfs"
_BOOLEANS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}

if TYPE_CHECKING:
    from datasets import Dataset

# A path or hub id, or rows in memory.
Source: TypeAlias = Union[str, Path, "Dataset", Sequence[Mapping[str, Any]]]
NumberedRows = Iterator[tuple[int, dict[str, Any]]]
PlacedRows = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Rows:
    """Rows in order. A column that a row lacks, but others have, is None when iterating."""

    raw: list[dict[str, Any]]
    places: list[str]  # names each row in messages: "FILE, row 3"

    @property
    def column_names(self) -> list[str]:
        """The columns of all rows, in order of appearance."""
        return list(dict.fromkeys(itertools.chain.from_iterable(self.raw)))

    def __len__(self) -> int:
        return len(self.raw)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names = self.column_names
        return (row if len(row) == len(names) else {name: row.get(name) for name in names} for row in self.raw)

    def require(self, names: Iterable[str]) -> None:
        """Raises ImplicitPRMError if a row lacks one of these columns; names the row and the columns that it has."""
        needed = set(names)
        for place, row in zip(self.places, self.raw, strict=True):
            if not needed <= row.keys():
                raise ImplicitPRMError(
                    f"{place}: no column {', '.join(sorted(needed - row.keys()))}, which other rows have; this one has "
                    f"{', '.join(sorted(row))}. All rows need the same columns"
                )


def read_rows(
    source: Source,
    split: str = "train",
    revision: str | None = None,
    subset: str | None = None,
    limit: int | None = None,
    option: str | None = None,
) -> Rows:
    """The rows of a source, all or the first `limit`.

    Args:
        source: a file (JSON lines, JSON, parquet, CSV; .gz of them), a folder (of such files, as the hub lays them out,
            or a dataset that was saved to disk), the id of a hub dataset, or rows in memory: a `datasets.Dataset` or a
            list of dicts.
        split: the split of a folder or hub dataset; a file has no splits.
        revision: a commit, branch or tag of a hub dataset.
        subset: the configuration of a hub dataset, or of a copy of one, that has several.
        limit: the number of rows. With a limit, only as much of a hub dataset is read over the network; without, it is
            downloaded into the hub cache.
        option: the option that takes a local copy, for messages.

    Raises:
        ImplicitPRMError: no such source or split, a hub that cannot be reached, an unfinished download, or a file that
            is empty, damaged or of another format than its suffix; names the file and the way out.
    """
    pairs = list(itertools.islice(stream_rows(source, split, revision, subset, limit is None, option), limit))
    if not pairs:
        raise no_rows(source)
    return Rows([row for _, row in pairs], [place for place, _ in pairs])


def stream_rows(
    source: Source,
    split: str = "train",
    revision: str | None = None,
    subset: str | None = None,
    download: bool = True,
    option: str | None = None,
) -> PlacedRows:
    """The rows of a source one by one, each with the place that names it in messages ("FILE, row 3").

    Of JSON lines, parquet and CSV, one row (parquet: 256 rows) is in memory at a time.

    Args:
        source: as for `read_rows`.
        split: as for `read_rows`.
        revision: as for `read_rows`.
        subset: as for `read_rows`.
        download: download a hub dataset into the hub cache; otherwise it is read over the network.
        option: as for `read_rows`.

    Raises:
        ImplicitPRMError: as `read_rows`, but no error if there are no rows.
    """
    if not isinstance(source, str | Path):
        return _in_memory(source)
    source = str(source)
    path = Path(source).expanduser()
    if _is_saved(path):
        return _saved(path, source, split)
    files = _files(source, split, revision, subset, download, option)
    return ((f"{file.name}, row {number}", row) for file in files for number, row in _read(file))


def no_rows(source: Source) -> ImplicitPRMError:
    """The error for a source without rows."""
    return ImplicitPRMError(f"{source if isinstance(source, str | Path) else 'the given rows'}: no rows")


def _files(
    source: str, split: str, revision: str | None, subset: str | None, download: bool, option: str | None
) -> Iterable[DataFile]:
    """The files of a source that was not saved by `Dataset.save_to_disk`."""
    path = Path(source).expanduser()
    if path.exists() and revision is not None:
        raise ImplicitPRMError(f"{source} is a local copy, and revision={revision} names a commit of the hub; drop one")
    if path.is_file():
        return [DataFile(source, str(path))]
    if path.is_dir():
        return folder_files(path, source, split, subset)
    return hub_files(source, split, subset, revision, download, option)


def _is_saved(path: Path) -> bool:
    with clear_os_errors(Path(str(path)[:200])):  # no permission, or a name that is too long
        return (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()


def content_of(
    source: Source, split: str = "train", revision: str | None = None, option: str | None = None
) -> tuple[str, int]:
    """A fingerprint of what `read_rows` reads without a limit, and its size in bytes.

    Of rows in memory, only the columns that groups are made of count.

    Args:
        source: as for `read_rows`.
        split: as for `read_rows`.
        revision: as for `read_rows`.
        option: as for `read_rows`.

    Raises:
        ImplicitPRMError: a source that cannot be found.
    """
    digest, size = hashlib.sha256(), 0
    if not isinstance(source, str | Path):
        for row in source:
            known = {name: row[name] for name in row if name in KNOWN} if isinstance(row, Mapping) else row
            line = json.dumps(known, default=str).encode()
            digest.update(line + b"\n")
            size += len(line)
        return digest.hexdigest(), size
    path = Path(source).expanduser()
    if _is_saved(path):
        digest.update(split.encode())
        files = [DataFile(file.name, str(file)) for file in sorted(path.rglob("*")) if file.is_file()]
    else:
        files = list(_files(str(source), split, revision, None, True, option))
    for file in files:
        digest.update(f"{''.join(Path(file.path).suffixes)} {file_digest(file.path)}\n".encode())
        size += Path(file.path).stat().st_size
    return digest.hexdigest(), size


def _in_memory(source: Iterable[Mapping[str, Any]]) -> PlacedRows:
    for number, row in enumerate(source, 1):
        if not isinstance(row, Mapping):
            raise ImplicitPRMError(f"row {number}: expected a dict with columns, got {type(row).__name__}")
        _check_text(row, f"row {number}")
        yield f"row {number}", dict(row)


def _check_text(row: Mapping[str, Any], place: str) -> None:
    """Refuse half a surrogate pair, which no tokenizer takes and no UTF-8 file can hold."""
    for name, value in row.items():
        if _has_lone_surrogate(value) or _has_lone_surrogate(name):
            raise ImplicitPRMError(
                f"{place}: the column {name!a} holds half a surrogate pair (\\ud800 to \\udfff), which is no "
                "character; correct the text or remove the row"
            )


def _has_lone_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return not value.isascii() and LONE_SURROGATE.search(value) is not None
    if isinstance(value, Mapping):
        return any(_has_lone_surrogate(one) for pair in value.items() for one in pair)
    return isinstance(value, list | tuple) and any(map(_has_lone_surrogate, value))


def _read(file: DataFile) -> NumberedRows:
    ending = Path(file.path.removesuffix(".gz")).suffix
    if ending not in _READERS:
        raise ImplicitPRMError(f"{file.name}: unknown suffix; use one of {', '.join(_READERS)} (or .gz of them)")
    with _readable_errors(file.name), file.open() as stream:
        start = stream.read(len(_LFS))
        if not start:
            raise ImplicitPRMError(f"{file.name}: the file is empty")
        if start == _LFS:
            raise ImplicitPRMError(
                f"{file.name}: a git-lfs pointer, not the data; fetch the data with `git lfs pull`, or get the "
                "dataset with `hf download`"
            )
        stream.seek(0)
        data = cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if file.path.endswith(".gz") else stream
        yield from _READERS[ending](data, file.name)


@contextlib.contextmanager
def _readable_errors(name: str) -> Iterator[None]:
    try:
        yield
    except ImplicitPRMError:
        raise
    except PermissionError as error:
        raise ImplicitPRMError(f"{name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ImplicitPRMError(f"{name}: the file is not UTF-8 text ({error.reason}); convert it") from error
    except Exception as error:  # gzip, csv, pyarrow and the network raise many types
        cause = str(error).strip().split("\n")[0]
        raise ImplicitPRMError(
            f"{name}: the file cannot be read; it is cut off or damaged ({type(error).__name__}: {cause}); get it again"
        ) from error


def _json(stream: BinaryIO, name: str) -> NumberedRows:
    """JSON lines, or one list of rows. (pyarrow and pandas turn texts into numbers and dates if the types differ.)"""
    lines = enumerate(io.TextIOWrapper(stream, encoding="utf-8-sig", newline="\n"), 1)
    for number, line in lines:
        if not line.strip():
            continue
        if line.lstrip().startswith("["):  # a single document
            line += "".join(rest for _, rest in lines)
            rows = list(enumerate(_parse(line, name, number), 1))
        else:
            rows = [(number, _parse(line, name, number))]
        escaped = "\\u" in line  # as half a surrogate pair is; it cannot stand in UTF-8
        for place, row in rows:
            if not isinstance(row, dict):
                raise ImplicitPRMError(f"{name}, row {place}: not an object; a row looks like {{...}}")
            if escaped:
                _check_text(row, f"{name}, row {place}")
            yield place, row


def _parse(text: str, name: str, line: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ImplicitPRMError(
            f"{name}, line {line}: not JSON ({error}). A file of JSON lines holds one object on each line; if the last "
            "one was cut off, delete it or get the file again"
        ) from None


def _parquet(stream: BinaryIO, name: str) -> NumberedRows:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(stream)
    # One row group at a time: pyarrow would otherwise fetch the whole file before the first row.
    groups = (file.iter_batches(256, row_groups=[group]) for group in range(file.num_row_groups))
    return enumerate((row for batches in groups for batch in batches for row in batch.to_pylist()), 1)


def _csv(stream: BinaryIO, name: str) -> NumberedRows:
    """All cells are texts, except labels."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), strict=True)
    for number, row in enumerate(reader, 1):
        if None in row or None in row.values():
            raise ImplicitPRMError(f"{name}, row {number}: the number of cells differs from the header")
        yield number, {key: _BOOLEANS.get(v.lower(), v) if key in LABEL else v for key, v in row.items()}


_READERS = {".jsonl": _json, ".json": _json, ".parquet": _parquet, ".csv": _csv}


def _saved(path: Path, source: str, split: str) -> PlacedRows:
    """The rows of a folder that `Dataset.save_to_disk` wrote."""
    import datasets  # slow to import, and rarely needed

    with _readable_errors(source):
        rows = datasets.load_from_disk(str(path))
        if isinstance(rows, dict):
            if split not in rows:
                raise ImplicitPRMError(f"{source}: no split {split!r}; it has {', '.join(rows)}")
            rows = rows[split]
        for number, row in enumerate(rows, 1):
            yield f"{source}, row {number}", row
