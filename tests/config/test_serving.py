"""Options of the server."""

import pytest

from implicit_prm.config import ServeConfig
from tests.config.examples import assert_refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": None}, ["checkpoint=FOLDER"]),
        ({"beta": 0}, ["beta is 0.0"]),
        ({"max_length": 0}, ["max_length is 0"]),
        ({"port": 70_000}, ["port is 70000"]),
        ({"max_body_bytes": 0}, ["max_body_bytes is 0"]),
        ({"max_responses": 0}, ["max_responses is 0"]),
        ({"max_responses": 10_000}, ["max_queued_responses=8192", "max_responses"]),
        ({"reference_cache_entries": 0}, ["reference_cache_entries is 0"]),
        ({"stop_timeout_s": 0}, ["stop_timeout_s is 0"]),
        ({"empty_score": float("nan")}, ["empty_score is nan"]),
        ({"over": "tokens"}, ["over=tokens"]),
        ({"scores_column": "s"}, ["scores_column"]),
    ],
)
def test_invalid_options_are_refused(changes, words):
    assert_refused(ServeConfig, {"checkpoint": "c"} | changes, *words)
