"""Writing files: after an error or interruption, a file is either complete or unchanged."""

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils import io
from implicit_prm.utils.io import JsonLines, atomic_folder, atomic_write, write_json

ODD_TEXTS = [
    "line\u2028separator",
    "paragraph\u2029separator",
    "next\x85line",
    "feed\x0c",
    "a\nb\r\nc",
    "é😀",
    "\ufeff",
]


def _fill_disk(monkeypatch):
    """Make fsync fail, as on a full disk after buffered writes."""

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(io.os, "fsync", refuse)


def test_atomic_write_creates_folders_and_file(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    with atomic_write(path) as stream:
        stream.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_atomic_write_keeps_the_old_file_on_an_error(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def fails():
        with atomic_write(path) as stream:
            stream.write(b"half of the n")
            raise KeyError("body")

    with pytest.raises(KeyError):
        fails()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"], "a temporary file is left"


def test_atomic_write_keeps_the_old_file_on_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    _fill_disk(monkeypatch)
    with pytest.raises(ImplicitPRMError, match=r"file\.json: the disk is full"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_what_is_written_has_the_permissions_of_the_umask(mask, tmp_path):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "file.json", {})
        with atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file.json").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask


def test_folder_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ImplicitPRMError, match=r"out\.json"):
        write_json(tmp_path / "file" / "out.json", {})
    with pytest.raises(ImplicitPRMError, match=r"rows\.jsonl"):
        JsonLines(tmp_path / "file" / "rows.jsonl").append({})


def test_write_json_keeps_unicode(tmp_path):
    write_json(tmp_path / "x.json", ODD_TEXTS)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == ODD_TEXTS
    assert "😀" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_a_name_that_is_not_utf8_is_written_as_an_escape(tmp_path):
    name = {"file": b"a\xff.jsonl".decode("utf-8", "surrogateescape")}
    write_json(tmp_path / "x.json", name)
    JsonLines(tmp_path / "x.jsonl").append(name)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == name
    assert JsonLines(tmp_path / "x.jsonl").rows() == [name]


def test_rows_are_appended_in_order_after_reopening(tmp_path):
    path = tmp_path / "folder" / "rows.jsonl"
    assert JsonLines(path).rows() == []
    JsonLines(path).append({"n": 1})
    log = JsonLines(path)
    log.append({"n": 2})
    assert log.rows() == JsonLines(path).rows() == [{"n": 1}, {"n": 2}]


def test_unicode_line_separators_do_not_end_a_row(tmp_path):
    log = JsonLines(tmp_path / "rows.jsonl")
    rows = [{"text": text} for text in ODD_TEXTS]
    for row in rows:
        log.append(row)
    assert JsonLines(log.path).rows() == rows
    assert log.path.read_bytes().count(b"\n") == len(rows)


@pytest.mark.parametrize("tail", [b'{"n": 2', b"{", '{"t": "é'.encode()[:-1]])
def test_incomplete_last_line_is_removed(tmp_path, tail):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n' + tail)
    log = JsonLines(path)
    assert log.rows() == [{"n": 1}]
    log.append({"n": 3})
    assert log.rows() == [{"n": 1}, {"n": 3}]


@pytest.mark.parametrize("content", [b'{"n": 1', b'{"n": 1}\n{"n', b'{"n": 1}'])
def test_reading_does_not_change_the_file(content, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    log = JsonLines(path)
    assert log.rows() == ([{"n": 1}] if b"}" in content else [])
    assert path.read_bytes() == content
    log.append({"n": 2})
    assert log.rows()[-1] == {"n": 2}


def test_append_keeps_the_rows_on_a_full_disk(tmp_path, monkeypatch):
    log = JsonLines(tmp_path / "rows.jsonl")
    log.append({"n": 1})
    with monkeypatch.context() as patch:
        _fill_disk(patch)
        with pytest.raises(ImplicitPRMError, match=r"rows\.jsonl: the disk is full"):
            log.append({"n": 2})
    assert log.path.read_bytes() == b'{"n": 1}\n'
    log.append({"n": 2})
    assert log.rows() == [{"n": 1}, {"n": 2}]


def test_append_removes_a_partly_written_row(tmp_path):
    """A file size limit stops a write in the middle, like a full disk."""
    resource = pytest.importorskip("resource")
    log = JsonLines(tmp_path / "rows.jsonl")
    log.append({"n": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 20, before[1]))
    try:
        with pytest.raises(ImplicitPRMError, match=r"rows\.jsonl: File too large"):
            log.append({"text": "longer than twenty bytes"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert log.path.read_bytes() == b'{"n": 1}\n'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_append_to_a_full_device_is_an_error(monkeypatch):
    monkeypatch.setattr(JsonLines, "_mend", lambda self: None)
    monkeypatch.setattr(io.os, "truncate", lambda *_: None)
    with pytest.raises(ImplicitPRMError, match="/dev/full: the disk is full"):
        JsonLines(Path("/dev/full")).append({"n": 1})


def test_invalid_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n{"n": 2\n{"n": 3}\n')
    with pytest.raises(ImplicitPRMError, match=r"rows\.jsonl, line 2"):
        JsonLines(path).rows()


def test_complete_last_row_without_newline_is_kept(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}')
    log = JsonLines(path)
    log.append({"a": 3})
    assert [row["a"] for row in log.rows()] == [1, 2, 3]


@pytest.mark.parametrize("content", [b"PAR1\x00\x01", b"[1, 2]\n", b"a,b\n1,2\n", b'{"n": 1}\n\xff\n', b"{}\n[1]"])
def test_files_that_are_not_json_lines_are_refused(content, tmp_path):
    path = tmp_path / "table"
    path.write_bytes(content)
    with pytest.raises(ImplicitPRMError, match=r"table, line \d"):
        JsonLines(path).rows()
    assert path.read_bytes() == content


def test_atomic_folder_is_complete_or_absent(tmp_path):
    def fill(text, fails=False, **options):
        with atomic_folder(tmp_path / "out", **options) as unfinished:
            (unfinished / "file").write_text(text)
            if fails:
                raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        fill("one", fails=True)
    assert list(tmp_path.iterdir()) == []
    fill("one")
    with pytest.raises(ImplicitPRMError, match="exists already"):
        fill("two")
    with pytest.raises(RuntimeError):
        fill("two", fails=True, replace_old=True)
    assert (tmp_path / "out" / "file").read_text() == "one"
    fill("two", replace_old=True)
    assert (tmp_path / "out" / "file").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_run_left_of_a_folder_is_removed(tmp_path):
    for name in (".out.0123abcd", ".out.config", ".other.0123abcd"):
        (tmp_path / name).mkdir()
    with atomic_folder(tmp_path / "out"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.0123abcd", ".out.config", "out"]


def test_weights_that_do_not_fit_the_disk_leave_no_folder(tmp_path):
    """safetensors has its own error for a file that it cannot write to its end."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ImplicitPRMError, match="out: "), atomic_folder(tmp_path / "out") as unfinished:
            save_file({"weight": np.zeros(1000)}, unfinished / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_entries_start_at_any_line(tmp_path):
    log = JsonLines(tmp_path / "rows.jsonl")
    for text in ODD_TEXTS:
        log.append({"t": text})
    entries = list(log.entries())
    content = log.path.read_bytes()
    assert [json.loads(content[start : start + size]) for start, size, _ in entries] == [row for *_, row in entries]
    for number, (start, _, _) in enumerate(entries):
        assert list(log.entries(start)) == entries[number:]
    assert list(log.entries(len(content))) == []


def test_non_finite_numbers_become_null(tmp_path):
    row = {"a": math.nan, "b": [1.5, -math.inf], "c": {"d": (math.inf, "NaN")}, "e": True}
    expected = {"a": None, "b": [1.5, None], "c": {"d": [None, "NaN"]}, "e": True}
    write_json(tmp_path / "x.json", row)
    JsonLines(tmp_path / "x.jsonl").append(row)
    assert json.loads((tmp_path / "x.json").read_text()) == expected
    assert JsonLines(tmp_path / "x.jsonl").rows() == [expected]
