"""Rows of files and folders: every kind gives the same rows, and what is damaged is named with the way out."""

import errno
import gzip
import json
import os
import socket
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from implicit_prm.data.readers import read_rows
from implicit_prm.types import ImplicitPRMError
from tests.conftest import write_rows

ROWS = [
    {"prompt": "1+1?", "completions": ["2", "3"], "correctness": [True, False]},
    {"prompt": "é", "completions": ["4"], "correctness": [True]},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def _refused(source, *words, **options):
    with pytest.raises(ImplicitPRMError) as caught:
        read_rows(str(source), **options)
    for word in (str(source), *words):
        assert word in str(caught.value)


def _parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


def _save(folder, kind):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    path = folder / f"rows.{kind}"
    if kind.endswith(".gz"):
        path.write_bytes(gzip.compress((json.dumps(ROWS) if kind == "json.gz" else text).encode()))
    elif kind == "json":
        path.write_text(json.dumps(ROWS, indent=2))
    elif kind == "jsonl":
        path.write_text("\ufeff" + text.replace("\n", "\r\n\n"), encoding="utf-8")
    elif kind == "parquet":
        _parquet(path, ROWS)
    elif kind == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(str(path))
    else:
        path.mkdir()
        for number, row in enumerate(ROWS):
            _parquet(path / f"data/train-{number:05d}-of-{len(ROWS):05d}.parquet", [row])
        _parquet(path / "data/test-00000-of-00001.parquet", ROWS[:1])
    return str(path)


KINDS = ["json", "jsonl", "json.gz", "jsonl.gz", "parquet", "saved", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_rows_without_the_network(tmp_path, kind, monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: asked.append(host) or [])
    source = _save(tmp_path, kind)
    rows = read_rows(source)
    assert list(rows) == ROWS
    assert rows.column_names == list(ROWS[0])
    assert all(place.startswith(source) for place in rows.places)
    assert list(read_rows(source, limit=1)) == ROWS[:1]
    assert not asked


def test_rows_are_named_by_their_line_or_file(tmp_path):
    assert read_rows(_save(tmp_path, "jsonl")).places[1].endswith("rows.jsonl, row 3"), "a blank line is a line"
    assert read_rows(_save(tmp_path, "folder")).places[1].endswith("/data/train-00001-of-00002.parquet, row 1")


def test_the_splits_of_folders(tmp_path):
    source = _save(tmp_path, "folder")
    assert list(read_rows(source, "test")) == ROWS[:1]
    _refused(source, "no split 'dev'; it has train, test", split="dev")
    parts = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[1:])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    assert list(read_rows(str(tmp_path / "saved"), "test")) == ROWS[1:]
    _refused(tmp_path / "saved", "no split 'dev'; it has train, test", split="dev")


def test_a_folder_of_json_lines(tmp_path):
    write_rows(tmp_path / "train-a.jsonl", ROWS[:1])
    (tmp_path / "train-b.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROWS[1]).encode()))
    write_rows(tmp_path / "test.jsonl", ROWS[1:])
    assert list(read_rows(str(tmp_path))) == ROWS
    assert list(read_rows(str(tmp_path), "test")) == ROWS[1:]


def test_a_readme_names_the_files_of_each_configuration(tmp_path):
    for name in ("main", "socratic"):
        _parquet(tmp_path / name / "train-00000-of-00001.parquet", [{"question": name}])
    assert list(read_rows(str(tmp_path), subset="main")) == [{"question": "main"}], "without it, by the folder's name"
    assert list(read_rows(str(tmp_path / "main"), subset="main")) == [{"question": "main"}], "the folder of it alone"
    configs = [
        f"- config_name: {n}\n  data_files:\n  - split: x\n    path: {n}/train-*\n" for n in ("main", "socratic")
    ]
    (tmp_path / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    assert list(read_rows(str(tmp_path), "x", subset="main")) == [{"question": "main"}]
    _refused(tmp_path, "several configurations (['main', 'socratic'])", split="x")


def test_cells_are_what_the_file_says(tmp_path):
    """Readers that infer types turn mixed columns into numbers and texts into dates."""
    rows = [{"answer": text} for text in ("007", "1.50", "true", "2020-01-01", 3, None)]
    assert list(read_rows(str(write_rows(tmp_path / "rows.jsonl", rows)))) == rows


def test_a_column_that_some_rows_lack_is_none_there(tmp_path):
    rows = read_rows(str(write_rows(tmp_path / "rows.jsonl", [{"a": 1}, {"b": 2, "a": 3}])))
    assert rows.column_names == ["a", "b"]
    assert list(rows) == [{"a": 1, "b": None}, {"a": 3, "b": 2}]
    rows.require(["a"])
    with pytest.raises(ImplicitPRMError, match="row 1: no column b, which other rows have; this one has a"):
        rows.require(["b"])


def test_a_csv_is_of_texts_and_labels(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion,label\np,2,True\n"p,\nq",3,0\np,4,yes\n')
    assert [list(row.values()) for row in read_rows(str(path))] == [
        ["p", "2", True],
        ["p,\nq", "3", False],
        ["p", "4", "yes"],
    ]
    path.write_text("prompt,completion,label\np,2\n")
    _refused(path, "row 1: ", "cells")
    path.write_text('prompt,label\np,"True\n')
    _refused(path, "cut off or damaged")


def test_what_is_not_there(tmp_path):
    for name in ("none.jsonl", "none.jsonl.gz", "none", "a/b/none"):
        _refused(tmp_path / name, "no such file or folder")
    _refused("none.jsonl", "no such file or folder")
    with pytest.raises(ImplicitPRMError, match="xxx"):
        read_rows("x" * 5000)
    _refused("./none", "no such file or folder")
    (tmp_path / "rows.txt").write_text("{}")
    _refused(tmp_path / "rows.txt", ".jsonl, .json, .parquet, .csv", ".jsonl", ".parquet")
    (tmp_path / "empty").mkdir()
    _refused(tmp_path / "empty", "no data files there")


def test_a_revision_of_a_local_copy_is_refused(tmp_path):
    _refused(write_rows(tmp_path / "rows.jsonl", ROWS), "is a local copy, and revision=v1", revision="v1")


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "csv", "jsonl.gz"])
def test_an_empty_file(tmp_path, ending):
    (tmp_path / f"rows.{ending}").touch()
    _refused(tmp_path / f"rows.{ending}", "the file is empty")


def test_files_without_rows(tmp_path):
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "rows.parquet")
    _refused(tmp_path / "rows.parquet", "no rows")
    for text in ("\n\n", "[]"):
        (tmp_path / "rows.json").write_text(text)
        _refused(tmp_path / "rows.json", "no rows")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1}\n{"a": [\n', ["line 2: not JSON", "if the last one was cut off"]),
        (b'{"a": 1}\n[1]\n', ["row 1: not an object"]),
        (b"[1, 2]", ["row 1: not an object"]),
        (b'{"a": "\xe9"}\n', ["not UTF-8"]),
    ],
)
def test_malformed_json_is_named_by_its_line(tmp_path, content, words):
    (tmp_path / "rows.jsonl").write_bytes(content)
    _refused(tmp_path / "rows.jsonl", *words)


@pytest.mark.parametrize("kind", ["jsonl.gz", "parquet"])
@pytest.mark.parametrize("harm", ["cut off", "overwritten", "something else"])
def test_damaged_files(tmp_path, kind, harm):
    path = tmp_path / f"rows.{kind}"
    rows = [{"prompt": f"{n}" * 9, "n": n} for n in range(3000)]
    if kind == "parquet":
        _parquet(path, rows)
    else:
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    whole = path.read_bytes()
    middle = len(whole) // 2
    harmed = {"cut off": whole[:middle], "overwritten": b"".join([whole[:40], b"\xff" * 20, whole[60:]])}
    path.write_bytes(harmed.get(harm, b"nothing of the kind"))
    _refused(path, "cut off or damaged", "get it again")


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "x"}\n{"prompt": ["\\ud800"]}\n',
        '[{"prompt": "\\ud83d\\ude00"}, {"prompt": {"\\udc00": 1}}]',
    ],
)
def test_half_a_surrogate_pair_is_refused(text, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(text)
    _refused(path, "row 2", "prompt")


def test_half_a_surrogate_pair_in_memory_is_refused_and_a_whole_one_is_a_character(tmp_path):
    with pytest.raises(ImplicitPRMError, match="row 1"):
        read_rows([{"prompt": "\ud800"}])
    (tmp_path / "rows.jsonl").write_text('{"prompt": "\\ud83d\\ude00"}')
    assert read_rows(str(tmp_path / "rows.jsonl")).raw == [{"prompt": "😀"}]


@pytest.mark.parametrize("kind", ["jsonl.gz", "parquet", "folder"])
def test_git_lfs_pointers_are_not_data(tmp_path, kind):
    path = tmp_path / ("set/train.parquet" if kind == "folder" else f"rows.{kind}")
    path.parent.mkdir(exist_ok=True)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    _refused(path.parent if kind == "folder" else path, "git-lfs pointer", "git lfs pull")


def test_downloads_that_were_not_finished(tmp_path):
    folder = tmp_path / "set"
    source = _save(tmp_path, "folder")
    (tmp_path / "rows.folder").rename(folder)
    unfinished = folder / ".cache/huggingface/download/data/x.abc.incomplete"
    unfinished.parent.mkdir(parents=True)
    unfinished.touch()
    _refused(folder, "x.abc.incomplete is there", "run the same `hf download` again", "hf download")
    unfinished.unlink()
    assert list(read_rows(str(folder))) == ROWS
    (folder / "data/link.parquet").symlink_to(tmp_path / "blob")
    _refused(folder, "data/link.parquet is a link to a missing file")
    (folder / "data/link.parquet").unlink()
    (folder / "data/train-00000-of-00002.parquet").unlink()
    _refused(folder, "data/train-00000-of-00002.parquet is missing (1 of 2 files are there)", "hf download")
    assert not source.startswith(str(folder))


def test_columns_that_differ_between_files_are_named_by_file(tmp_path):
    write_rows(tmp_path / "train-a.jsonl", ROWS)
    write_rows(tmp_path / "train-b.jsonl", [{"problem": "p"}])
    with pytest.raises(ImplicitPRMError, match=r"train-b.jsonl, row 1: no column prompt.* this one has problem"):
        read_rows(str(tmp_path)).require(["prompt"])


def test_a_file_without_permission_is_not_called_damaged(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "rows.jsonl", ROWS)
    opened = Path.open

    def refuse(self, *arguments, **options):
        if self == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImplicitPRMError, match=rf"rows\.jsonl: {os.strerror(errno.EACCES)}$"):
        read_rows(str(path))
