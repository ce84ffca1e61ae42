"""Encoding in several processes: the same groups in the same order, and errors that end the run."""

import os
import signal
import warnings

import pytest

from implicit_prm.config import TextConfig
from implicit_prm.data.encoding import default_processes, encoded_groups
from implicit_prm.data.groups import load_groups
from implicit_prm.data.tokenization import Encoder
from implicit_prm.types import ImplicitPRMError
from tests.conftest import graded_rows, write_rows
from tests.data.test_encoded_file import plain


@pytest.fixture
def groups(tmp_path):
    return load_groups(str(write_rows(tmp_path / "rows.jsonl", graded_rows(200, 2))))


@pytest.fixture
def encoder(tokenizer):
    return Encoder(tokenizer, TextConfig(steps="newline"))


def test_several_processes_encode_as_one_does(groups, encoder):
    assert plain(encoded_groups(groups, encoder.group, 3)) == plain(map(encoder.group, groups))
    assert default_processes() >= 1


def test_an_error_in_any_process_is_raised(groups, encoder):
    groups[150].completions[1], groups[150].finished[1] = "", False
    with pytest.raises(ImplicitPRMError, match=f"{groups[150].id}, response 1"):
        list(encoded_groups(groups, encoder.group, 2))


def test_a_killed_process_ends_the_run(groups, encoder):
    parent = os.getpid()

    def killed(group):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return encoder.group(group)

    with pytest.raises(ImplicitPRMError, match="num_proc"):
        list(encoded_groups(groups, killed, 2))


def test_warnings_are_shown_once(groups, encoder):
    for group in groups:
        group.completions[0] += encoder.tokenizer.eos_token
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        list(encoded_groups(groups, encoder.group, 2))
    assert len(shown) == 1
