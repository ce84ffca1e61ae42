"""Exact labels: equal to the sandbox's checker, and refusals of anything that is not a sandbox problem."""

from dataclasses import replace

import pytest

from implicit_prm.baselines.labels.exact import Exact
from implicit_prm.data.groups import load_groups
from implicit_prm.types import ImplicitPRMError, TokenCounts
from tests.conftest import graded_rows, write_rows


@pytest.fixture
def groups(tmp_path):
    return load_groups(str(write_rows(tmp_path / "rows.jsonl", graded_rows(3, 2))))


def test_labels_equal_the_checker(groups):
    labelled = list(Exact(None).label(groups, done={groups[1].id}))
    assert [result.group for result in labelled] == [groups[0], groups[2]]
    for result in labelled:
        assert result.labels == [[float(step) for step in steps] for steps in result.group.step_labels]
        assert result.tokens == TokenCounts()


@pytest.mark.parametrize(
    ("prompt", "reason"), [("What is 1 + 1?", "not a sandbox problem"), ([{"role": "user", "content": "x"}], "chat")]
)
def test_other_problems_are_refused(groups, prompt, reason):
    with pytest.raises(ImplicitPRMError, match=reason):
        list(Exact(None).label([replace(groups[0], prompt=prompt)], done=()))
