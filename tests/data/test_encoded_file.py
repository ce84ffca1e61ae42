"""Groups that were written to a file are those that were encoded."""

import pickle
import tracemalloc
from array import array

import pytest

from implicit_prm.config import TextConfig
from implicit_prm.data.encoded_file import EncodedFile, write_groups
from implicit_prm.data.groups import load_groups
from implicit_prm.data.tokenization import EncodedGroup, Encoder, TrainingResponse
from tests.conftest import graded_rows, write_rows


def plain(groups):
    """Encoded groups as values that can be compared (NaN is shown as text)."""
    return [
        (
            group.name,
            list(group.prompt_ids),
            group.labels,
            [
                (list(r.ids), list(r.step_of_token), r.key, r.step_labels and list(map(repr, r.step_labels)))
                for r in group.responses
            ],
        )
        for group in groups
    ]


@pytest.mark.parametrize("step_labels", [False, True])
@pytest.mark.parametrize("prompts", [1, 64, 130])
def test_what_is_read_is_what_was_written(prompts, step_labels, tokenizer, tmp_path):
    rows = graded_rows(prompts, 3)
    rows[0]["step_labels"][0] = None
    groups = load_groups(str(write_rows(tmp_path / "rows.jsonl", rows)))
    encoder = Encoder(tokenizer, TextConfig(steps="newline"))
    encoded = [encoder.group(group, step_labels) for group in groups]
    write_groups(tmp_path / "groups.arrow", iter(encoded))
    read = EncodedFile(tmp_path / "groups.arrow")
    assert len(read) == prompts
    assert plain(read) == plain(encoded) == plain([read[place] for place in range(prompts)])
    assert plain(pickle.loads(pickle.dumps(read))) == plain(encoded)
    with pytest.raises(IndexError):
        read[prompts]


def test_a_step_may_own_no_token():
    response = TrainingResponse(array("i", [5, 6, 7]), array("i", [1, 0, 2]), b"")
    assert response.step_of_token.tolist() == [0, 2, 2]


def test_tokens_stay_on_disk(tmp_path):
    ids = array("i", range(1_000_000))
    group = EncodedGroup("g", array("i", [1, 2]), [TrainingResponse(ids, array("i", [len(ids)]), bytes(16))], [True])
    write_groups(tmp_path / "groups.arrow", [group])
    tracemalloc.start()
    (read,) = EncodedFile(tmp_path / "groups.arrow")
    assert (read.lengths, read.responses[0].ids[999_999]) == ([1_000_002], 999_999)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
