"""One run writes an output at a time, and a run that was killed is no obstacle."""

import errno
import json
import os
import subprocess
import sys
import threading

import filelock
import pytest

from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.lock import locked

HOLD = """
import sys, time
from implicit_prm.utils.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows does not let others delete the file of a lock")
def test_the_second_run_is_refused_while_the_first_lives(tmp_path):
    output = tmp_path / "rows.jsonl"
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(output)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(ImplicitPRMError, match=rf"rows\.jsonl .*process {first.pid} on"), locked(output):
            pass
        with locked(tmp_path / "other.jsonl"):
            pass
    finally:
        first.kill()
        first.communicate()
    assert (tmp_path / ".rows.jsonl.lock").exists()
    with locked(output):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_locked_inside_and_removed_again_if_nothing_was_written(tmp_path):
    with locked(tmp_path / "empty", inside=True):
        assert (tmp_path / "empty" / ".lock").exists()
        with pytest.raises(ImplicitPRMError, match=rf"process {os.getpid()}"), locked(tmp_path / "empty", inside=True):
            pass
    with locked(tmp_path / "full", inside=True):
        (tmp_path / "full" / "file").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "file"]


def test_a_run_that_has_only_just_started_is_named(tmp_path):
    """Its description is written when it has the lock already."""
    with filelock.FileLock(tmp_path / ".rows.jsonl.lock"):
        described = {"command": "ipr-rollout", "process": 4711, "host": "node7", "since": "now"}
        holder = tmp_path / ".rows.jsonl.lock.json"
        threading.Timer(0.2, holder.write_text, [json.dumps(described)]).start()
        with (
            pytest.raises(ImplicitPRMError, match=r"ipr-rollout .process 4711 on node7"),
            locked(tmp_path / "rows.jsonl"),
        ):
            pass


def test_only_the_first_process_of_a_launch_locks(tmp_path, monkeypatch):
    with locked(tmp_path / "rows.jsonl"):
        monkeypatch.setenv("RANK", "1")
        with locked(tmp_path / "rows.jsonl"):
            pass


def test_nothing_is_locked_where_nothing_is_written():
    with locked(None):
        pass


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match=r"rows\.jsonl"), locked(tmp_path / "rows.jsonl"):
        pass
