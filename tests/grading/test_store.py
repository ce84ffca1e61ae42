import json
import multiprocessing
import signal
import sqlite3
import subprocess
import warnings

import pytest

from implicit_prm.grading import Grader, Verdict
from implicit_prm.grading.store import FILE, ResultStore, stored
from implicit_prm.utils.caches import prune

CALL = ("compare", ("2", r"\sqrt{4}"))


def test_results_are_there_in_the_next_process(tmp_path):
    store = ResultStore(tmp_path, 5)
    assert store.get(*CALL) is None
    store.add(*CALL, "equal")
    assert store.get(*CALL) == "equal"
    assert not list(tmp_path.iterdir())
    store.close()
    assert ResultStore(tmp_path, 5).get(*CALL) == "equal"
    assert ResultStore(tmp_path, 5).get("compare", ("2", r"\sqrt{4}x")) is None


def test_a_second_run_starts_no_worker(tmp_path, monkeypatch):
    pairs = [("2", r"\sqrt{4}"), ("2", r"\sqrt{5}"), ("2", "@@")]
    texts = ["So it is 7", "So there are $12$ of them."]

    def run():
        with Grader(store=ResultStore(tmp_path, 5)) as grader:
            verdicts = [grader.equal(*pair) for pair in pairs] + [grader.grade(text, "12") for text in texts]
            return verdicts, grader.answer_classes([r"\sqrt{4}", "2", r"\sqrt{5}", r"\sqrt{20}/2"])

    first = run()
    monkeypatch.setattr(subprocess, "Popen", None)
    assert run() == first
    assert first[1] == [0, 0, 1, 1]


@pytest.mark.parametrize("change", ["limit_s", "sympy", "rules"])
def test_another_version_reads_nothing(tmp_path, monkeypatch, change):
    store = ResultStore(tmp_path, 5)
    store.add(*CALL, "equal")
    store.close()
    if change == "sympy":
        monkeypatch.setattr("implicit_prm.grading.store.metadata.version", lambda name: "0")
    elif change == "rules":
        monkeypatch.setattr("implicit_prm.grading.store._RULES", ("equality.py",))
    assert ResultStore(tmp_path, 6 if change == "limit_s" else 5).get(*CALL) is None


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0" + bytes(4096), "other tables"])
def test_a_damaged_or_foreign_file_is_ignored(tmp_path, content):
    store = ResultStore(tmp_path, 5)
    store.path.parent.mkdir(parents=True)
    if content == "other tables":
        with sqlite3.connect(store.path) as connection:
            connection.execute("CREATE TABLE results (name TEXT)")
        connection.close()
    else:
        store.path.write_bytes(content)
    before = store.path.read_bytes()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Grader(store=store) as grader:
            assert grader.equal("2", r"\sqrt{4}") == Verdict("equal", r"\sqrt{4}")
    if content:  # an empty file is an empty database
        assert len(caught) == 1
        assert str(store.path) in str(caught[0].message)
        assert store.path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    store = ResultStore(tmp_path / "file", 5)
    store.add(*CALL, "equal")
    with pytest.warns(UserWarning, match="file"):
        store.close()
    assert store.get(*CALL) == "equal"


def fill(folder, number):
    store = ResultStore(folder, 5)
    for k in range(300):
        store.add("compare", (str(k % 250), str(number)), f"{k % 250} {number}")
        if k % 20 == 0:
            store.close()
    store.close()


def test_several_processes_write_one_file(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=fill, args=(tmp_path, number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    store = ResultStore(tmp_path, 5)
    calls = [(str(k), str(number)) for number in range(3) for k in range(250)]
    assert [store.get("compare", call) for call in calls] == [" ".join(call) for call in calls]
    store.close()


def test_a_worker_killed_from_outside_leaves_no_result(tmp_path):
    store = ResultStore(tmp_path, 5)
    with Grader(limit_s=0.3, store=store) as grader:
        assert grader.equal("5", "9^{9^{9^9}}").status == "timeout"
        assert store.get("compare", ("5", "9^{9^{9^9}}")) == "timeout"
        exchange = grader._worker._exchange

        def killed(message):
            grader._worker._process.send_signal(signal.SIGKILL)
            return exchange(None)

        grader.equal("5", r"\sqrt{24}")
        grader._worker._exchange = killed
        assert grader.equal("5", r"\sqrt{25}").status == "timeout"
        assert store.get("compare", ("5", r"\sqrt{25}")) is None


def test_stored_lists_what_prune_deletes(tmp_path):
    store = ResultStore(tmp_path, 5)
    store.add(*CALL, "equal")
    store.close()
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / FILE).write_bytes(b"nothing")
    (tmp_path / "foreign.txt").write_text("mine")
    found = {one.folder.name: one for one in stored(tmp_path)}
    assert found["damaged"].content == "damaged"
    mine = found[store.path.parent.name]
    assert mine.content == "1 results"
    assert mine.identity == json.loads((store.path.parent / "identity.json").read_text())
    assert prune(found.values(), older_than_days=1) == []
    prune(found.values())
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.txt"]
