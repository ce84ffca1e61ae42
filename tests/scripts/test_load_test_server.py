"""The load test's requests, and its comparison of answers with direct scoring. The servers are not started."""

from itertools import islice

import pytest
from loadtestlib.load import Answer, Request, largest_difference, requests

from implicit_prm import ImplicitPRM, load_groups
from tests.conftest import graded_rows
from tests.runs import PROBLEM, RESPONSES


@pytest.fixture(scope="module")
def prm(tiny_folder):
    return ImplicitPRM.from_pretrained(tiny_folder, reference="none", beta=1.0, steps="newline", device="cpu")


def test_requests_are_about_one_prompt_each_and_no_text_comes_twice():
    groups = load_groups(graded_rows(2, 3))
    some = list(islice(requests(groups, 2, seed=0), 12))
    assert [len(one.responses) for one in some[:4]] == [2, 1, 2, 1]
    assert [one.body["problem"] for one in some[:4]] == [groups[0].prompt] * 2 + [groups[1].prompt] * 2
    texts = [text for one in some for text in one.responses]
    assert len(set(texts)) == len(texts)
    assert list(islice(requests(groups, 2, seed=0), 12)) == some


def test_a_wrong_or_missing_number_is_noticed(prm):
    request = Request(PROBLEM, RESPONSES)
    right = [one.step_rewards for one in prm.score(PROBLEM, RESPONSES)]
    assert largest_difference([Answer(request, 0.1, right), Answer(request, 0.1, error="status 503")], prm) == 0
    assert largest_difference([Answer(request, 0.1, [[right[0][0] + 1, *right[0][1:]], right[1]])], prm) == 1
    assert largest_difference([Answer(request, 0.1, right[:1])], prm) == float("inf")
