"""Groups one after another: as `load_groups` reads them, without holding the source."""

import itertools
import json

import datasets
import pytest

from implicit_prm.data.groups import load_groups
from implicit_prm.data.streaming import groups_in_order, stream_groups
from implicit_prm.types import ImplicitPRMError
from tests.conftest import graded_rows, write_rows

GROUPED = graded_rows(5, 3)
UNPAIRED = [
    {"prompt": row["prompt"], "completion": text, "label": label, "score": place}
    for row in GROUPED
    for place, (text, label) in enumerate(zip(row["completions"], row["correctness"], strict=True))
]
PAIRED = [
    {"prompt": row["prompt"], "chosen": row["completions"][0], "rejected": text}
    for row in GROUPED
    for text in row["completions"][1:]
]
PARTLY_LABELLED = [{"prompt": "1?", "responses": ["1", "2"]}, {"prompt": "2?", "responses": ["2"], "correct": [True]}]


@pytest.mark.parametrize("rows", [GROUPED, UNPAIRED, PAIRED], ids=["grouped", "unpaired", "paired"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved", "memory"])
def test_they_are_those_of_load_groups(rows, kind, tmp_path):
    source = str(tmp_path / f"rows.{kind}")
    if kind == "memory":
        source = rows
    elif kind == "jsonl":
        write_rows(tmp_path / "rows.jsonl", rows)
    elif kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(source)
    else:
        datasets.Dataset.from_list(rows).save_to_disk(source)
    groups = list(stream_groups(source))
    assert groups == load_groups(source, graded=False)
    assert [group.extra for group in groups] == [group.extra for group in load_groups(source, graded=False)]


def test_labels_may_be_missing():
    assert [group.correctness for group in stream_groups(PARTLY_LABELLED)] == [[None, None], [True]]


def test_only_the_next_group_is_read():
    endless = ((f"row {number}", {"prompt": f"{number}?", "completion": "1"}) for number in itertools.count())
    first = list(itertools.islice(groups_in_order(endless), 3))
    assert [(place, group.prompt) for place, group, _ in first] == [("row 0", "0?"), ("row 1", "1?"), ("row 2", "2?")]
    assert next(endless)[0] == "row 4"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([UNPAIRED[0], UNPAIRED[3], UNPAIRED[1]], r"row 3"),
        ([{**GROUPED[0], "id": "a"}, GROUPED[1], {**GROUPED[2], "id": "a"}], r"row 3.*'a'"),
        ([GROUPED[0], {"id": "b", "prompt": "?"}], r"row 2.*completions"),
        ([GROUPED[0], {**GROUPED[1], "completions": []}], r"row 2"),
        ([{"text": "?"}], r"row 1.*text"),
        ([], "no rows"),
    ],
)
def test_what_cannot_be_scored_in_order_is_refused(rows, words, tmp_path):
    with pytest.raises(ImplicitPRMError, match=words):
        list(stream_groups(rows))


def test_rows_without_ids_may_share_a_prompt():
    row = {"prompt": "1 + 1?", "completions": ["2"]}
    assert len(list(stream_groups([row, row]))) == 2


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GROUPED[0]) + "\n{\n")
    groups = stream_groups(str(path))
    assert next(groups) == load_groups([GROUPED[0]])[0]
    with pytest.raises(ImplicitPRMError, match=r"rows\.jsonl, line 2"):
        next(groups)
