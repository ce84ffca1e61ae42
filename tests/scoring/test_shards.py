"""Scores in parts: nothing is scored twice, and any shards merge to the table of one run."""

import pyarrow.parquet as pq
import pytest

from implicit_prm.scoring.shards import Shard, ShardedScores
from implicit_prm.scoring.store import cache_key, score_all
from implicit_prm.types import Group, ImplicitPRMError, StepScores, StepSpan

SCORER = {"name": "length"}


def _groups(count, correct=True):
    texts = ["a", "bb\nc"]
    return [Group(f"p{n}", f"prompt {n}", texts, [correct, False], [True, True]) for n in range(count)]


class Counting:
    """A scorer that counts, and fails when it is told to. It scores no step of "too long"."""

    def __init__(self, fail_at=None):
        self.seen, self.fail_at = [], fail_at

    def __call__(self, group):
        if group.id == self.fail_at:
            raise KeyboardInterrupt
        self.seen.append(group.id)
        return [
            StepScores(text, [], [], [], index=place)
            if text in ("", "too long")
            else StepScores(text, [StepSpan(0, len(text))], [len(text) + len(group.id) / 7], [1.0], index=place)
            for place, text in enumerate(group.completions)
        ]


def _sharded(folder, groups, scorer=SCORER, size=3, **options):
    return ShardedScores(lambda: iter(groups), scorer, folder, size, **options)


def _score(scores, shard=None, score=None):
    score = score or Counting()
    scores.score(scores.missing(shard or Shard()), score, shown=False)
    return score.seen


def test_parts_hold_whole_groups(tmp_path):
    scores = _sharded(tmp_path, _groups(5))
    assert [part.responses for part in scores.parts] == [4, 4, 2]
    assert scores.responses == 10


def test_shards_of_any_number_merge_to_the_bytes_of_one_run(tmp_path):
    groups = _groups(20)
    one = _sharded(tmp_path / "one", groups)
    assert _score(one) == [group.id for group in groups]
    one.merge()
    four, seen = _sharded(tmp_path / "four", groups), []
    for number in (2, 0, 3, 1):
        seen.append(_score(four, Shard(number, 4)))
    assert sorted(name for names in seen for name in names) == sorted(group.id for group in groups)
    assert all(seen)
    four.merge()
    assert one.table.read_bytes() == four.table.read_bytes()


def test_processes_of_a_shard_share_it():
    shares = [Shard(1, 4).share(rank, 2) for rank in (0, 1)]
    assert [list(range(one.number, 24, one.count)) for one in shares] == [[1, 9, 17], [5, 13, 21]]


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_a_shard_has_the_same_parts_on_machines_with_any_number_of_processes(processes):
    for shard in (Shard(number, 4) for number in range(4)):
        shares = [shard.share(rank, processes) for rank in range(processes)]
        parts = [part for one in shares for part in range(one.number, 48, one.count)]
        assert sorted(parts) == list(range(shard.number, 48, shard.count))


def test_an_interrupted_shard_resumes_at_the_part_that_was_being_scored(tmp_path):
    groups = _groups(20)
    scores = _sharded(tmp_path, groups)
    with pytest.raises(KeyboardInterrupt):
        _score(scores, score=Counting(fail_at="p5"))  # in the third part
    assert _score(_sharded(tmp_path, groups)) == [f"p{n}" for n in range(4, 20)]


def test_missing_parts_are_named_and_nothing_is_merged(tmp_path):
    scores = _sharded(tmp_path, _groups(8))
    _score(scores, Shard(0, 2))
    with pytest.raises(ImplicitPRMError, match=r"2 of 4 parts .* 1, 3;"):
        scores.merge()
    assert not scores.table.exists()


def test_the_table_is_the_one_that_an_evaluation_looks_for(tmp_path):
    groups, again = _groups(7), Counting()
    scores = _sharded(tmp_path, groups)
    _score(scores)
    scores.merge()
    assert score_all(groups, again, tmp_path, cache_key(groups, **SCORER)) == [Counting()(group) for group in groups]
    assert again.seen == []


def test_only_parts_with_a_changed_response_are_scored_again(tmp_path):
    groups = _groups(8)
    _score(_sharded(tmp_path, groups))
    groups[3] = Group("p3", "prompt 3", ["a", "other"], [True, False], [True, True])
    assert _score(_sharded(tmp_path, [*groups, *_groups(10)[8:]])) == ["p2", "p3", "p8", "p9"]
    assert _score(_sharded(tmp_path, groups, scorer={"name": "other"})) == [group.id for group in groups]


def test_labels_are_those_of_the_last_merge(tmp_path):
    _score(_sharded(tmp_path, _groups(4)))
    for correct in (True, None):
        scores = _sharded(tmp_path, _groups(4, correct))
        assert _score(scores) == []
        assert pq.read_table(scores.merge())["correct"].to_pylist() == [correct, False] * 4


def test_a_part_that_leaves_a_response_out_counts_with_lowest_only(tmp_path):
    groups = _groups(8)
    groups[1] = Group("p1", "prompt 1", ["a", ""], [None] * 2, [True] * 2)
    groups[4] = Group("p4", "prompt 4", ["", "too long"], [None] * 2, [True] * 2)
    lowest, error = (_sharded(tmp_path, groups, too_long=rule) for rule in ("lowest", "error"))
    _score(lowest, Shard(0, 2))
    _score(error, Shard(1, 2))
    assert (lowest.missing(Shard()), error.missing(Shard())) == ([], [2])
    table = lowest.merge().read_bytes()
    with pytest.raises(ImplicitPRMError, match=r"1 of 4 parts .* 2;.* too_long=lowest"):
        error.merge()
    assert lowest.table.read_bytes() == table


@pytest.mark.parametrize("later", [_groups(7), _groups(9)[1:], []], ids=["shorter", "other", "empty"])
def test_a_source_that_changes_meanwhile_is_noticed(later, tmp_path):
    reads = iter([_groups(8), later])
    scores = ShardedScores(lambda: next(reads), SCORER, tmp_path, 3)
    with pytest.raises(ImplicitPRMError, match="input"):
        _score(scores)


def test_damaged_parts_and_foreign_tables_are_refused(tmp_path):
    scores = _sharded(tmp_path, _groups(8))
    _score(scores)
    part = scores.parts[2].path
    whole = part.read_bytes()
    part.write_bytes(whole[:100] + bytes([whole[100] ^ 255]) + whole[101:])
    with pytest.raises(ImplicitPRMError, match=part.name):
        scores.merge()
    part.write_bytes(whole)
    scores.table.write_bytes(b"mine")
    with pytest.raises(ImplicitPRMError, match=r"scores\.parquet"):
        scores.merge()
    assert scores.table.read_bytes() == b"mine"
