"""Options of `ipr-score`."""

import pytest

from implicit_prm.config import ScoreConfig, from_mapping
from tests.config.examples import assert_refused, changed

SCORE = {"input": "rows.jsonl", "checkpoint": "folder", "output_dir": "scores"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": None}, ["checkpoint=FOLDER"]),
        ({"shard": "0/4"}, ["shard=0/4", "i/n"]),
        ({"shard": "5/4"}, ["shard=5/4"]),
        ({"shard": "1"}, ["shard=1"]),
        ({"shard": "1/4/2"}, ["shard=1/4/2"]),
        ({"shard": "1/4", "merge": True}, ["merge=true", "shard=1/4"]),
        ({"responses_per_part": 0}, ["responses_per_part is 0"]),
        ({"beta": 0}, ["beta is 0.0"]),
    ],
)
def test_invalid_options_are_refused(changes, words):
    assert_refused(ScoreConfig, changed(SCORE, **changes), *words)


@pytest.mark.parametrize(("shard", "expected"), [(None, (1, 1)), ("1/4", (1, 4)), ("12/12", (12, 12))])
def test_a_shard_is_counted_from_one(shard, expected):
    assert from_mapping(ScoreConfig, changed(SCORE, shard=shard)).shard_of == expected
