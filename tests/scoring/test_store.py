"""The store of scores: nothing is scored twice, and nothing stale is read."""

import contextlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from implicit_prm import ImplicitPRM, ImplicitPRMError
from implicit_prm.scoring import store
from implicit_prm.scoring.scorers import group_scorer
from implicit_prm.types import Group, StepScores, StepSpan


def _groups(count):
    return [Group(f"p{n}", "prompt", ["a", "bb\nc"], [True, False], [True, True]) for n in range(count)]


class Counting:
    """A scorer that counts, and fails when it is told to."""

    def __init__(self, fail_at=None):
        self.seen, self.fail_at = [], fail_at

    def __call__(self, group):
        if group.id == self.fail_at:
            raise KeyboardInterrupt
        self.seen.append(group.id)
        number = float(group.id[1:])
        return [
            StepScores(
                text, [StepSpan(0, len(text))], [number + place], [number + place], index=place, reference_logprob=-1.0
            )
            for place, text in enumerate(group.completions)
        ]


def test_an_interrupted_run_resumes(tmp_path):
    groups = _groups(20)
    with pytest.raises(KeyboardInterrupt):
        store.score_all(groups, Counting(fail_at="p13"), tmp_path, "key")
    again = Counting()
    scores = store.score_all(groups, again, tmp_path, "key")
    assert again.seen == [f"p{n}" for n in range(13, 20)]
    assert scores == [Counting()(group) for group in groups]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_the_table_is_reused_under_the_same_key_only(tmp_path):
    groups, first, second, third = _groups(3), Counting(), Counting(), Counting()
    scores = store.score_all(groups, first, tmp_path, "key")
    assert store.score_all(groups, second, tmp_path, "key") == scores
    assert second.seen == []
    store.score_all(groups, third, tmp_path, "other key")
    assert third.seen == ["p0", "p1", "p2"]


def test_contents_of_the_table(tmp_path):
    store.score_all(_groups(2), Counting(), tmp_path, "key")
    rows = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert rows[3] == {
        "problem_id": "p1",
        "response": 1,
        "correct": False,
        "finished": True,
        "kind": "log_ratio",
        "step_rewards": [2.0],
        "prefix_values": [2.0],
        "step_starts": [0],
        "step_ends": [4],
        "reference_logprob": -1.0,
        "step_tokens": None,
        "token_sums": None,
    }


@pytest.mark.parametrize("part", [False, True], ids=["whole", "interrupted"])
def test_scores_in_the_columns_of_an_older_version_are_computed_again(part, tmp_path):
    groups, again = _groups(2), Counting()
    scores = store.score_all(groups, Counting(), tmp_path, "key")
    table = pq.read_table(tmp_path / "scores.parquet")
    old = table.drop_columns(["step_tokens"])
    if part:
        (tmp_path / "scores.parquet").unlink()
        (tmp_path / "parts-key").mkdir()
        pq.write_table(old.slice(0, 2), tmp_path / "parts-key" / "000000.parquet")
        pq.write_table(table.slice(2, 2), tmp_path / "parts-key" / "000001.parquet")
    else:
        pq.write_table(old, tmp_path / "scores.parquet")
    assert store.score_all(groups, again, tmp_path, "key") == scores
    assert again.seen == (["p0"] if part else ["p0", "p1"])


def test_token_counts_and_sums_are_kept(tmp_path, tiny_folder):
    prm = ImplicitPRM.from_pretrained(tiny_folder, reference="none", beta=1.0, steps="newline", device="cpu")
    group = Group("p", "Modulo 50, left to right: 1 + 2", ["1 + 2 = 3\n\\boxed{3}", ""], [True] * 2, [True] * 2)
    first, empty = store.score_all([group], group_scorer(prm), tmp_path, "key")[0]
    assert sum(first.step_tokens) == len(prm.encoder.response(group.completions[0]).ids)
    assert len(first.step_tokens) == 2
    assert sum(first.token_sums.class_tokens) == sum(first.token_sums.tenth_tokens) == sum(first.step_tokens)
    assert sum(first.token_sums.class_rewards) == pytest.approx(first.outcome_reward)
    assert empty.step_tokens == []
    assert (first.token_sums, empty.token_sums) == tuple(one.token_sums for one in group_scorer(prm)(group))


def test_the_key_changes_with_scorer_and_candidates():
    groups = _groups(2)
    keys = {
        store.cache_key(groups, beta=0.1),
        store.cache_key(groups, beta=0.2),
        store.cache_key(groups[:1], beta=0.1),
        store.cache_key([Group("p0", "prompt", ["a", "x"], [True, False], [True, True])], beta=0.1),
        store.cache_key([Group("p0", "prompt", ["a", "bb\nc"], [True, False], [True, False])], beta=0.1),
    }
    assert len(keys) == 5
    assert store.cache_key(groups, beta=0.1) in keys


def test_any_flipped_byte_is_detected(tmp_path):
    groups = _groups(2)
    expected = store.score_all(groups, Counting(), tmp_path, "key")
    whole = (tmp_path / "scores.parquet").read_bytes()
    for place in range(0, len(whole), 37):
        (tmp_path / "scores.parquet").write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with contextlib.suppress(ImplicitPRMError):
            assert store.score_all(groups, Counting(), tmp_path, "key") == expected


@pytest.mark.parametrize("content", [b"PAR1 but no table", b"a,b\n1,2\n", None])
def test_a_table_that_is_not_ours_is_not_replaced(content, tmp_path):
    path = tmp_path / "scores.parquet"
    if content is None:
        pq.write_table(pa.table({"a": [1]}), path)
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(ImplicitPRMError, match=r"scores\.parquet"):
        store.score_all(_groups(2), Counting(), tmp_path, "key")
    with pytest.raises(ImplicitPRMError, match=r"scores\.parquet"):
        store.write_scores(_groups(2), [Counting()(group) for group in _groups(2)], tmp_path)
    assert path.read_bytes() == before
