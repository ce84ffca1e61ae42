"""The cache returns only numbers that were added to it, whatever happens to its files."""

import errno
import multiprocessing
import os
import signal
import threading
import time
import tracemalloc

import numpy as np
import pytest

from implicit_prm.data.tokenization import key_of
from implicit_prm.models import reference_cache
from implicit_prm.models.reference_cache import ReferenceCache, stored
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.caches import prune
from implicit_prm.utils.distributed import Processes

IDENTITY = {"weights": "abc", "dtype": "float32"}
KEY, OTHER = key_of([1, 2, 3], [4, 5]), key_of([1, 2, 3], [4, 5, 6])
VALUES = np.array([-1.5, -0.25], dtype=np.float32)


def _filled(root):
    cache = ReferenceCache(IDENTITY, root)
    cache.add(KEY, VALUES)
    cache.flush()
    return next(cache.folder.glob("*.safetensors"))


def test_entries_are_found_by_the_next_process(tmp_path):
    _filled(tmp_path)
    again = ReferenceCache(IDENTITY, tmp_path)
    assert np.array_equal(again.get(KEY, 2), VALUES)
    assert again.get(KEY, 2).dtype == np.float32
    assert again.get(OTHER, 3) is None
    assert again.get(KEY, 3) is None  # another length cannot be the same response


def test_a_key_knows_where_the_prompt_ends():
    assert key_of([1, 2], [3]) != key_of([1], [2, 3])
    assert key_of([1, 2], [3]) == key_of((1, 2), (3,))


@pytest.mark.parametrize("change", [{"weights": "abd"}, {"dtype": "bfloat16"}, {"device": "cuda"}])
def test_another_reference_has_another_cache(tmp_path, change):
    _filled(tmp_path)
    assert ReferenceCache(IDENTITY | change, tmp_path).get(KEY, 2) is None


def test_another_version_of_the_code_has_another_cache(tmp_path, monkeypatch):
    _filled(tmp_path)
    monkeypatch.setattr(reference_cache, "VERSION", reference_cache.VERSION + 1)
    assert ReferenceCache(IDENTITY, tmp_path).get(KEY, 2) is None


def test_any_flipped_byte_is_detected(tmp_path):
    path = _filled(tmp_path)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.warns(UserWarning, match="damaged"):
            assert ReferenceCache(IDENTITY, tmp_path).get(KEY, 2) is None
        assert not path.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_shard_is_detected(tmp_path, share):
    path = _filled(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.warns(UserWarning, match="damaged"):
        assert ReferenceCache(IDENTITY, tmp_path).get(KEY, 2) is None


def test_a_full_disk_loses_nothing_that_was_there(tmp_path, monkeypatch):
    _filled(tmp_path)
    cache = ReferenceCache(IDENTITY, tmp_path)
    cache.add(OTHER, np.zeros(3))

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ImplicitPRMError, match="disk is full"):
        cache.flush()
    monkeypatch.undo()
    again = ReferenceCache(IDENTITY, tmp_path)
    assert np.array_equal(again.get(KEY, 2), VALUES)
    assert again.get(OTHER, 3) is None
    cache.flush()  # once there is space
    assert ReferenceCache(IDENTITY, tmp_path).get(OTHER, 3) is not None


def _write_forever(root, first):
    number = first
    while True:
        cache = ReferenceCache(IDENTITY, root)
        for _ in range(20):
            cache.add(key_of([first], [number, number]), np.full(2, number, dtype=np.float32))
            number += 1
        cache.flush()


def test_two_killed_writers_leave_a_valid_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_forever, args=(tmp_path, first)) for first in (0, 10_000_000)]
    for writer in writers:
        writer.start()
    time.sleep(1.0)
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    cache = ReferenceCache(IDENTITY, tmp_path)
    assert len(cache) > 40
    for first in (0, 10_000_000):
        found = [cache.get(key_of([first], [n, n]), 2) for n in range(first, first + len(cache))]
        numbers = [n for n, values in enumerate(found, first) if values is not None]
        assert numbers == list(range(first, first + len(numbers)))
        assert all((found[n - first] == np.float32(n)).all() for n in numbers)


def test_a_writer_s_shards_are_seen_after_a_refresh(tmp_path):
    reader = ReferenceCache(IDENTITY, tmp_path)
    _filled(tmp_path)
    assert reader.get(KEY, 2) is None
    reader.refresh()
    assert reader.get(KEY, 2) is not None


def test_a_shard_is_read_by_name_where_the_folder_does_not_list_it(tmp_path, monkeypatch):
    """As on NFS, whose listings are cached."""
    reader = ReferenceCache(IDENTITY, tmp_path)
    writer = ReferenceCache(IDENTITY, tmp_path)
    writer.add(KEY, VALUES)
    writer.flush()
    monkeypatch.setattr(reference_cache.Path, "glob", lambda *_: iter(()))
    reader.refresh()
    assert reader.get(KEY, 2) is None
    reader.refresh(writer.written)
    assert reader.get(KEY, 2) is not None


class Team(Processes):
    """Processes that are threads of this one."""

    def gather(self, value):
        values, barrier = self.group
        values[self.rank] = value
        barrier.wait(10)
        gathered = list(values)
        barrier.wait(10)
        return gathered


@pytest.mark.parametrize("shared", [True, False])
def test_folders_of_their_own_are_noticed_by_all_processes(shared, tmp_path):
    group = [None, None], threading.Barrier(2)
    roots = [tmp_path / ("a" if shared else str(rank)) for rank in (0, 1)]
    found = []

    def check(rank):
        try:
            ReferenceCache(IDENTITY, roots[rank]).require_shared(Team(rank, 2, group))
            found.append("shared")
        except ImplicitPRMError as error:
            found.append(str(error))

    threads = [threading.Thread(target=check, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert all(one == "shared" if shared else "reference_cache" in one for one in found)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_cache_knows_whether_anything_lacks(tmp_path):
    cache = ReferenceCache(IDENTITY, tmp_path)
    request = [1, 2, 3], [[4, 5], [4, 5, 6]], [KEY, OTHER]
    assert cache.lacks([request])
    cache.add(KEY, VALUES)
    assert cache.lacks([request])
    cache.add(OTHER, np.zeros(3))
    assert not cache.lacks([request])


def test_caches_are_listed_and_pruned(tmp_path):
    path = _filled(tmp_path)
    (one,) = stored(tmp_path)
    assert (one.content, one.identity["weights"]) == ("1 responses, 2 tokens", "abc")
    assert prune([one], older_than_days=1) == []
    os.utime(path, (time.time() - 3 * 86_400,) * 2)
    assert prune(stored(tmp_path), older_than_days=1)
    assert stored(tmp_path) == []


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000, '{"model": 3}'])
def test_a_damaged_identity_is_listed(content, tmp_path):
    cache = ReferenceCache(IDENTITY, tmp_path)
    cache.add(b"k" * 16, np.zeros(2, dtype=np.float32))
    cache.flush()
    (cache.folder / "identity.json").write_text(content)
    (listed,) = stored(tmp_path)
    assert listed.content == "1 responses, 2 tokens"
    assert all(isinstance(value, str) for value in listed.identity.values())


def test_listing_reads_headers_alone(tmp_path):
    path = _filled(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # a value is damaged; that is found when it is read
    (tmp_path / path.parent.name / "empty.safetensors").touch()
    (one,) = stored(tmp_path)
    assert one.content == "1 responses, 2 tokens"
    assert len(list(path.parent.glob("*.safetensors"))) == 2


def test_values_stay_on_disk(tmp_path):
    """Neither a reader nor the process that computed them holds the values in memory."""
    tracemalloc.start()
    computed = ReferenceCache(IDENTITY, tmp_path)
    computed.add(KEY, np.arange(2_000_000, dtype=np.float32))
    computed.add(OTHER, np.zeros(0))
    computed.flush()
    caches = computed, ReferenceCache(IDENTITY, tmp_path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2_000_000
    for cache in caches:
        assert np.array_equal(cache.get(KEY, 2_000_000), np.arange(2_000_000))
        assert len(cache.get(OTHER, 0)) == 0


def test_a_cache_without_tokens_can_be_read(tmp_path):
    cache = ReferenceCache(IDENTITY, tmp_path)
    cache.add(OTHER, np.zeros(0))
    cache.flush()
    assert len(ReferenceCache(IDENTITY, tmp_path).get(OTHER, 0)) == 0


def test_a_cache_with_a_limit_forgets_the_oldest_but_keeps_them_on_disk(tmp_path):
    cache = ReferenceCache(IDENTITY, tmp_path)
    cache.keep_at_most(2)
    keys = [key_of([1], [place]) for place in range(4)]
    for key in keys:
        cache.add(key, VALUES[:1])
    cache.flush()
    assert [key in cache for key in keys] == [False, False, True, True]
    again = ReferenceCache(IDENTITY, tmp_path)
    assert all(key in again for key in keys)
    again.keep_at_most(1)
    assert len(again) == 1


def test_a_full_disk_does_not_stop_a_cache_with_a_limit(tmp_path, monkeypatch):
    def full(path):
        raise ImplicitPRMError(f"{path}: no space left on device")

    monkeypatch.setattr(reference_cache, "atomic_write", full)
    monkeypatch.setattr(reference_cache, "_SHARD_ENTRIES", 2)
    cache = ReferenceCache(IDENTITY, tmp_path)
    cache.keep_at_most(1)
    cache.add(KEY, VALUES)
    with pytest.warns(UserWarning, match="no space left"):
        cache.add(OTHER, np.zeros(3))
    assert OTHER in cache
    assert KEY not in cache
    cache.flush()  # nothing is left to write
