"""Encoded sets on disk: found again if nothing that they depend on has changed, and only then."""

import json
from dataclasses import replace
from functools import partial

import pytest

from implicit_prm.config import CEConfig, DataConfig, DPOConfig, StepsConfig, TextConfig
from implicit_prm.data import encoded_sets
from implicit_prm.data.encoded_sets import Encoding, encode_sets, stored, write_report
from implicit_prm.data.tokenization import Encoder
from implicit_prm.data.training_set import unread, unread_rows
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.caches import prune
from tests.conftest import graded_rows, write_rows
from tests.data.test_encoded_file import plain

ROWS = graded_rows(70, 3)


@pytest.fixture(autouse=True)
def _keep_small_sets(monkeypatch):
    monkeypatch.setattr(encoded_sets, "KEPT_FROM_BYTES", 0)


@pytest.fixture
def data(tmp_path):
    return DataConfig(train=str(write_rows(tmp_path / "rows.jsonl", ROWS)))


@pytest.fixture
def encoding(tokenizer):
    encoder = Encoder(tokenizer, TextConfig(steps="newline"))
    return Encoding(encoder.group, encoder.identity, None, "error", needs_pairs=False, step_labels=False)


def _never(*_):
    raise AssertionError("it is encoded already")


@pytest.fixture
def encode(encoding, tmp_path):
    def run(sets, **changes):
        options = {"folder": str(tmp_path / "cache"), "num_proc": 2, "say": lambda _: None}
        own = {name: changes.pop(name) for name in list(changes) if name in options or name == "local_first"}
        return encode_sets(sets, replace(encoding, **changes), **(options | own))

    return run


def _folders(tmp_path):
    return {path.name for path in (tmp_path / "cache").glob("*")}


@pytest.mark.parametrize("loss", [CEConfig(), DPOConfig(), StepsConfig(), CEConfig(balance="prompt")])
def test_kept_sets_are_those_in_memory(loss, data, encode, encoding, tokenizer):
    data = replace(data, hold_out_prompts=5, max_responses=2)
    encoder = Encoder(tokenizer, TextConfig(steps="newline"))
    changes = {
        "encode_group": partial(encoder.group, step_labels=loss.needs_step_labels),
        "needs_pairs": loss.needs_pairs,
        "step_labels": loss.needs_step_labels,
    }
    in_memory = encode(unread(data, loss, 3), folder=None, **changes)
    encode(unread(data, loss, 3), **changes)
    kept = encode(replace(unread(data, loss, 3), read=_never), **(changes | {"encode_group": _never}))
    assert kept.keys() == in_memory.keys() == {"train", "dev"}
    for name, one in kept.items():
        other = in_memory[name]
        assert plain(one.groups) == plain(other.groups)
        assert one.report == other.report
        assert (one.source, one.split, one.fingerprint) == (other.source, other.split, other.fingerprint)


def test_only_what_changes_the_sets_makes_new_ones(data, encode, encoding, tmp_path):
    encode(unread(data, CEConfig(), 0))
    encode(unread(data, CEConfig(), 1))  # nothing is drawn
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes((tmp_path / "rows.jsonl").read_bytes())
    assert encode(unread(replace(data, train=str(moved)), CEConfig(), 0))["train"].source == str(moved)
    assert len(_folders(tmp_path)) == 1
    others = [
        {"sets": unread(replace(data, max_responses=2), CEConfig(), 0)},
        {"sets": unread(replace(data, max_responses=2), CEConfig(), 1)},
        {"sets": unread(replace(data, max_prompts=20), CEConfig(), 0)},
        {"sets": unread(replace(data, hold_out_prompts=2), CEConfig(), 0)},
        {"sets": unread(data, CEConfig(balance="dataset"), 0)},
        {"sets": unread(data, DPOConfig(), 0)},
        {"identity": "another tokenizer"},
        {"limit_tokens": 1000},
        {"too_long": "drop"},
        {"needs_pairs": True},
        {"step_labels": True},
    ]
    for number, change in enumerate(others, 2):
        encode(**({"sets": unread(data, CEConfig(), 0)} | change))
        assert len(_folders(tmp_path)) == number, change
    changed = [ROWS[0] | {"completions": ["2", *ROWS[0]["completions"][1:]]}, *ROWS[1:]]
    write_rows(tmp_path / "rows.jsonl", changed)
    assert encode(unread(data, CEConfig(), 0))["train"].fingerprint
    assert len(_folders(tmp_path)) == len(others) + 2


@pytest.mark.parametrize(
    "change", [{"steps": "blank_line"}, {"system_prompt": "s"}, {"prompt_template": "a {problem}"}]
)
def test_the_encoder_s_identity_knows_its_options(change, tokenizer):
    encoder = Encoder(tokenizer, TextConfig(steps="newline"))
    encoder.responses(["a", "b"])  # leaves no trace
    assert encoder.identity == Encoder(tokenizer, TextConfig(steps="newline")).identity
    assert encoder.identity != Encoder(tokenizer, TextConfig(**{"steps": "newline", **change})).identity


def test_rows_in_memory_are_kept_by_their_content(encode, tmp_path):
    from datasets import Dataset

    rows = [{**row, "note": object()} for row in ROWS]  # a column that is not read
    encode(unread_rows(rows, None, CEConfig(), 0))
    kept = encode(replace(unread_rows(rows, None, CEConfig(), 0), read=_never))
    assert (kept["train"].source, len(kept["train"].groups)) == ("train_dataset", 70)
    encode(unread_rows(Dataset.from_list(ROWS), ROWS[:3], CEConfig(), 0))
    assert len(_folders(tmp_path)) == 2


def test_small_sets_leave_no_files(data, encode, monkeypatch, tmp_path):
    monkeypatch.undo()
    assert isinstance(encode(unread(data, CEConfig(), 0))["train"].groups, list)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["train.arrow", "sets.json"])
def test_what_is_damaged_or_incomplete_is_encoded_again(name, data, encode, tmp_path):
    whole = plain(encode(unread(data, CEConfig(), 0))["train"].groups)
    (folder,) = (tmp_path / "cache").iterdir()
    content = (folder / name).read_bytes()
    if name == "train.arrow":
        (folder / name).write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
        with pytest.warns(UserWarning, match="damaged"):
            again = encode(unread(data, CEConfig(), 0))
    else:  # it is written last
        (folder / name).unlink()
        assert stored(tmp_path / "cache")[0].content == "incomplete"
        again = encode(unread(data, CEConfig(), 0))
    assert plain(again["train"].groups) == whole
    assert (folder / name).read_bytes() == content


def test_an_error_keeps_nothing_that_looks_whole(data, encode, tmp_path):
    with pytest.raises(ImplicitPRMError, match="too_long=drop"):
        encode(unread(data, CEConfig(), 0), limit_tokens=30)
    assert not list((tmp_path / "cache").iterdir())


def test_one_process_of_a_machine_encodes(data, encode, tmp_path):
    with pytest.raises(FileNotFoundError):  # alone, without the first process
        encode(replace(unread(data, CEConfig(), 0), read=_never), local_first=False)
    encode(unread(data, CEConfig(), 0))
    assert len(encode(replace(unread(data, CEConfig(), 0), read=_never), local_first=False)["train"].groups) == 70


def test_sets_are_listed_and_pruned(data, encode, tmp_path):
    encode(unread(replace(data, hold_out_prompts=10), CEConfig(), 0))
    (one,) = stored(tmp_path / "cache")
    assert one.content == "70 prompts, 210 responses"
    assert one.identity == {"train": data.train, "dev": data.train}
    assert one.size_bytes > 1000
    assert prune([one], older_than_days=1) == []
    prune([one])
    assert stored(tmp_path / "cache") == []


def test_the_report_is_written_with_where_the_data_is_from(data, encode, tmp_path):
    sets = encode(unread(replace(data, hold_out_prompts=2), CEConfig(), 0), limit_tokens=40, too_long="drop")
    report = sets["train"].report
    assert report.dropped
    write_report(tmp_path / "report.json", sets)
    written = json.loads((tmp_path / "report.json").read_text())
    assert (written["train"]["source"], written["train"]["split"]) == (data.train, "train")
    assert written["train"]["dropped"] == dict(report.dropped)
    assert written["dev"]["prompts"] == 2
