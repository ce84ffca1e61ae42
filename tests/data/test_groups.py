"""Rows to groups: every form is read to the same groups, and every bad input is named with its way out."""

import gzip
import json
import random
import socket

import datasets
import pytest

from implicit_prm.data.groups import Report, balance, fingerprint, is_mixed, load_groups, subset, take_responses
from implicit_prm.records import Group, ImplicitPRMError

GROUPED = [
    {"prompt": "1+1?", "completions": ["2", "3"], "correctness": [True, False]},
    {"prompt": "2+2?", "completions": ["5", "4", "four"], "correctness": [False, True, True]},
]
UNPAIRED = [
    {"prompt": "1+1?", "completion": "2", "label": True},
    {"prompt": "2+2?", "completion": "5", "label": False},
    {"prompt": "1+1?", "completion": "3", "label": False},
    {"prompt": "2+2?", "completion": "4", "label": True},
    {"prompt": "2+2?", "completion": "four", "label": True},
]
PAIRED = [
    {"prompt": "1+1?", "chosen": "2", "rejected": "3"},
    {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
    {"prompt": "2+2?", "chosen": "four", "rejected": "5"},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _jsonl(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _load(folder, rows, **options):
    return load_groups(_jsonl(folder, rows), **options)


def _as_set(groups):
    return {(g.prompt, text, label) for g in groups for text, label in zip(g.completions, g.correctness, strict=True)}


def _refused(source, *words, **options):
    with pytest.raises(ImplicitPRMError) as caught:
        load_groups(str(source), **options)
    for word in (str(source), *words):
        assert word in str(caught.value)


def _group(labels, prompt="p"):
    texts = [f"{prompt}{place}" for place in range(len(labels))]
    return Group(prompt, prompt, texts, list(labels), [True] * len(labels))


def test_grouped_rows(tmp_path):
    groups = _load(tmp_path, GROUPED)
    assert [group.completions for group in groups] == [["2", "3"], ["5", "4", "four"]]
    assert [group.correctness for group in groups] == [[True, False], [False, True, True]]
    assert [group.finished for group in groups] == [[True, True], [True, True, True]]
    assert groups[0].id != groups[1].id
    assert len(groups[1]) == 3


@pytest.mark.parametrize("rows", [UNPAIRED, PAIRED], ids=["unpaired", "paired"])
def test_trl_rows_become_the_same_groups(tmp_path, rows):
    groups = _load(tmp_path, rows)
    assert [group.prompt for group in groups] == ["1+1?", "2+2?"], "in order of appearance"
    assert _as_set(groups) == _as_set(_load(tmp_path, GROUPED))
    assert sum(map(len, groups)) == 5, "the rejected response that stands in two rows counts once"


def test_the_same_response_under_both_labels_is_kept_as_it_is(tmp_path):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": "b", "rejected": "c"}]
    (group,) = _load(tmp_path, rows)
    assert list(zip(group.completions, group.correctness, strict=True)) == [
        ("a", True),
        ("b", False),
        ("b", True),
        ("c", False),
    ]


def _save(folder, kind):
    if kind == "jsonl":
        return _jsonl(folder, GROUPED)
    if kind == "json":
        path = folder / "rows.json"
        path.write_text(json.dumps(GROUPED))
    elif kind in ("json.gz", "jsonl.gz"):
        path = folder / f"rows.{kind}"
        with gzip.open(path, "wt") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in GROUPED)
    elif kind == "parquet":
        path = folder / "rows.parquet"
        datasets.Dataset.from_list(GROUPED).to_parquet(str(path))
    else:
        path = folder / "saved"
        datasets.Dataset.from_list(GROUPED).save_to_disk(str(path))
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "json", "json.gz", "jsonl.gz", "parquet", "saved folder"])
def test_every_kind_of_file_gives_the_same_groups(tmp_path, kind):
    assert load_groups(_save(tmp_path, kind)) == _load(tmp_path, GROUPED)


def test_a_saved_folder_with_splits(tmp_path):
    rows = [datasets.Dataset.from_list([row]) for row in GROUPED]
    datasets.DatasetDict({"train": rows[0], "test": rows[1]}).save_to_disk(str(tmp_path / "saved"))
    assert load_groups(str(tmp_path / "saved"), split="test") == _load(tmp_path, GROUPED)[1:]
    _refused(tmp_path / "saved", "dev", split="dev")


def test_a_file_that_was_written_again_is_read_again(tmp_path):
    rows = [{**GROUPED[0], "correctness": labels} for labels in ([True, False], [None, True])]
    assert [_load(tmp_path, [row], graded=False)[0].correctness for row in rows] == [[True, False], [None, True]]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved folder"])
def test_local_files_are_read_without_the_network(tmp_path, monkeypatch, kind):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: asked.append(host) or [])
    load_groups(_save(tmp_path, kind))
    assert not asked


def test_a_csv_of_trl_rows(tmp_path):
    path = tmp_path / "rows.csv"
    datasets.Dataset.from_list(UNPAIRED).to_csv(str(path))
    assert load_groups(str(path)) == _load(tmp_path, UNPAIRED)


@pytest.mark.parametrize("prompt", ["prompt", "problem", "question"])
@pytest.mark.parametrize("texts", ["completions", "responses"])
@pytest.mark.parametrize("labels", ["correctness", "correct"])
def test_other_words_for_the_columns(tmp_path, prompt, texts, labels):
    rows = [{prompt: r["prompt"], texts: r["completions"], labels: r["correctness"]} for r in GROUPED]
    assert _load(tmp_path, rows) == _load(tmp_path, GROUPED)


def test_everything_a_grouped_row_may_bring(tmp_path):
    row = {
        "unique_id": 17,
        "problem": "1+1?",
        "answer": 2,
        "responses": ["a\n\nb", "c"],
        "correctness": [1, 0],
        "finished": [True, False],
        "steps": [["a", "b"], ["c"]],
        "step_labels": [[True, True], [False]],
        "source": "here",
    }
    (group,) = _load(tmp_path, [row])
    assert (group.id, group.answer, group.extra) == ("17", "2", {"source": "here"})
    assert group.correctness == [True, False]
    assert all(type(label) is bool for label in group.correctness)
    assert (group.finished, group.steps) == ([True, False], [["a", "b"], ["c"]])
    assert group.step_labels == [[True, True], [False]]


def test_an_id_of_zero_is_an_id(tmp_path):
    assert [group.id for group in _load(tmp_path, [{"id": n, **row} for n, row in enumerate(GROUPED)])] == ["0", "1"]


def test_conversational_prompts_and_completions(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    answers = {text: [{"role": "assistant", "content": text}] for text in ("2", "3")}
    (paired,) = _load(tmp_path, [{"prompt": chat, "chosen": answers["2"], "rejected": answers["3"]}])
    (unpaired,) = _load(
        tmp_path, [{"prompt": chat, "completion": answers[text], "label": text == "2"} for text in ("2", "3")]
    )
    (grouped,) = _load(tmp_path, [{"prompt": chat, "completions": ["2", "3"], "correctness": [True, False]}])
    assert paired == unpaired == grouped
    assert paired.prompt == chat
    assert paired.completions == ["2", "3"]


def test_ungraded_rows_are_read_for_scoring_only(tmp_path):
    rows = [{"prompt": "p", "completions": ["a", "b"]}]
    (group,) = _load(tmp_path, rows, graded=False)
    assert group.correctness == [None, None]
    _refused(_jsonl(tmp_path, rows), "has columns completions, prompt", "expected grouped rows")


def test_rows_graded_in_part_are_read_for_scoring_only(tmp_path):
    rows = [{"prompt": "p", "completions": ["a", "b"], "correctness": [True, None]}]
    (group,) = _load(tmp_path, rows, graded=False)
    assert group.correctness == [True, None]
    _refused(_jsonl(tmp_path, rows), "row 1", "the label None is not boolean; write true or false")


GOOD = GROUPED[0]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**GOOD, "completions": [], "correctness": []}, ["row 2: no response", "remove the row or sample it again"]),
        ({**GOOD, "completions": None}, ["row 2: no response"]),
        ({**GOOD, "completions": ["a", None]}, ["row 2: completions must be a list of texts"]),
        ({**GOOD, "correctness": [True]}, ["row 2: 2 responses but 1 entries in correctness"]),
        ({**GOOD, "correctness": [True, None]}, ["row 2: the label None is not boolean"]),
        ({**GOOD, "correctness": None}, ["row 2", "correctness"]),
        ({**GOOD, "finished": [True]}, ["row 2: 2 responses but 1 entries in finished"]),
        ({**GOOD, "finished": []}, ["row 2: 2 responses but 0 entries in finished"]),
        ({**GOOD, "steps": [["2"]]}, ["row 2: 2 responses but 1 entries in steps"]),
        ({**GOOD, "step_labels": [[True]]}, ["row 2: 2 responses but 1 entries in step_labels"]),
        ({**GOOD, "prompt": ""}, ["row 2: the prompt must be a text"]),
        ({**GOOD, "prompt": " \n"}, ["row 2: the prompt must be a text"]),
        ({**GOOD, "prompt": None}, ["row 2: the prompt must be a text"]),
    ],
)
def test_a_bad_grouped_row_is_named_with_the_way_out(tmp_path, row, words):
    _refused(_jsonl(tmp_path, [GOOD, row]), *words)


@pytest.mark.parametrize(
    ("labels", "word"), [(["yes", "no"], "'yes'"), ([2, 0], "2"), ([0.5, 1.0], "0.5"), (["1", "0"], "'1'")]
)
def test_labels_that_are_not_boolean_are_refused(tmp_path, labels, word):
    message = f"row 1: the label {word} is not boolean; write true or false"
    _refused(_jsonl(tmp_path, [{**GOOD, "correctness": labels}]), message)
    rows = [{"prompt": "p", "completion": "c", "label": labels[0]}]
    _refused(_jsonl(tmp_path, rows), f"the label {word} is not boolean; write true or false")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "p", "completion": "", "label": True}, ["row 2: no response"]),
        ({"prompt": "p", "completion": None, "label": True}, ["row 2: no response"]),
        ({"prompt": "p", "completion": "a", "label": None}, ["row 2: the label None is not boolean"]),
        ({"prompt": "", "completion": "a", "label": True}, ["row 2: the prompt must be a text"]),
    ],
)
def test_a_bad_unpaired_row_is_named(tmp_path, row, words):
    _refused(_jsonl(tmp_path, [UNPAIRED[0], row]), *words)


def test_a_bad_paired_row_is_named_by_its_row_number(tmp_path):
    rows = [PAIRED[0], PAIRED[1], {"prompt": "p", "chosen": "a", "rejected": ""}]
    _refused(_jsonl(tmp_path, rows), "row 3", "no response")


def test_responses_that_were_read_as_numbers_are_refused(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion,label\np,2,True\np,3,False\n")
    _refused(path, "row 1: the response 2 must be a text")


def test_a_chat_without_an_answer_is_no_response(tmp_path):
    chat = [{"role": "user", "content": "p"}]
    good = {"prompt": chat, "completion": [{"role": "assistant", "content": "a"}], "label": True}
    _refused(_jsonl(tmp_path, [good, {**good, "completion": []}]), "row 2: no response")


@pytest.mark.parametrize(
    "columns",
    [
        {"text": "a"},
        {"prompt": "p"},
        {"completions": ["a"], "correctness": [True]},
        {"prompt": "p", "completion": "a"},
        {"prompt": "p", "chosen": "a"},
    ],
)
def test_wrong_columns_are_listed_with_the_right_ones(tmp_path, columns):
    have = ", ".join(sorted(columns))
    source = _jsonl(tmp_path, [columns])
    _refused(source, f"has columns {have}", "(prompt, completions, correctness)", "(prompt, completion, label)")


def test_a_file_that_is_not_there(tmp_path):
    _refused(tmp_path / "none.jsonl", "no such file")
    _refused(tmp_path / "none.jsonl.gz", "no such file")


def test_an_unknown_ending(tmp_path):
    (tmp_path / "rows.txt").write_text("{}")
    _refused(tmp_path / "rows.txt", "unknown ending", ".jsonl", ".parquet")


def test_an_empty_file(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    _refused(tmp_path / "rows.jsonl", "the file is empty")


def test_files_without_rows(tmp_path):
    schema = datasets.Features({"prompt": datasets.Value("string")})
    path = str(tmp_path / "rows.parquet")
    datasets.Dataset.from_dict({"prompt": []}, features=schema).to_parquet(path)
    _refused(path, "the file has no rows")
    (tmp_path / "rows.json").write_text("\n\n")
    _refused(tmp_path / "rows.json")


def test_malformed_json(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(GOOD) + '\n{"prompt": "p", "completions": [\n')
    _refused(tmp_path / "rows.jsonl", "cannot be read as a dataset")


def test_a_file_that_is_not_what_its_ending_says(tmp_path):
    (tmp_path / "rows.parquet").write_text("not parquet")
    _refused(tmp_path / "rows.parquet", "cannot be read as a dataset")


def test_what_is_mixed():
    assert is_mixed(_group([True, False]))
    assert not is_mixed(_group([True, True]))


def test_subset_and_take_responses_keep_everything_aligned(tmp_path):
    row = {
        "prompt": "p",
        "completions": ["a", "b", "c"],
        "correctness": [True, False, True],
        "finished": [True, False, True],
        "steps": [["a"], ["b"], ["c"]],
        "step_labels": [[True], [False], [True]],
    }
    (group,) = _load(tmp_path, [row])
    taken = subset(group, [2, 1])
    assert (taken.id, taken.prompt) == (group.id, "p")
    assert (taken.completions, taken.correctness, taken.finished) == (["c", "b"], [True, False], [True, False])
    assert (taken.steps, taken.step_labels) == ([["c"], ["b"]], [[True], [False]])
    drawn = {tuple(take_responses([group], 2, seed)[0].completions) for seed in range(20)}
    assert drawn == {("a", "b"), ("a", "c"), ("b", "c")}  # any of them, in their order
    assert take_responses([group], 2, 7) == take_responses([_group([True], "q"), group], 2, 7)[1:]
    assert take_responses([group], 9) == [group]
    assert subset(_group([True, False]), [0]).steps is None


def _unbalanced():
    rng = random.Random(5)
    return [_group([rng.random() < 0.7 for _ in range(9)], f"p{number}") for number in range(20)]


def _classes(groups):
    return [sum(group.correctness) for group in groups], [len(group) - sum(group.correctness) for group in groups]


def test_balance_over_the_dataset_evens_out_the_classes():
    groups, report = _unbalanced(), Report()
    balanced = balance(groups, "dataset", 0, report)
    before, after = (list(map(sum, _classes(g))) for g in (groups, balanced))
    assert before[0] != before[1]
    assert after == [min(before)] * 2
    assert report.dropped == {"responses to balance the labels (loss.balance=dataset)": sum(before) - sum(after)}
    assert _as_set(balanced) < _as_set(groups)


def test_balance_within_prompts_evens_out_every_prompt():
    groups, report = [*_unbalanced(), _group([True, True], "one kind"), _group([False] * 3, "other kind")], Report()
    balanced = balance(groups, "prompt", 0, report)
    correct, incorrect = _classes(balanced)
    assert correct == incorrect
    assert min(correct) > 0, "a prompt whose responses are all left out disappears"
    assert {"one kind", "other kind"}.isdisjoint(group.id for group in balanced)
    by_id = {group.id: group for group in groups}
    for group in balanced:
        whole = by_id[group.id]
        assert sum(group.correctness) == min(sum(whole.correctness), len(whole) - sum(whole.correctness))
        assert group.completions == sorted(group.completions), "the order within the prompt stays"
    left_out = sum(map(len, groups)) - sum(map(len, balanced))
    assert report.dropped == {"responses to balance the labels (loss.balance=prompt)": left_out}


@pytest.mark.parametrize("how", ["dataset", "prompt"])
def test_balance_draws_with_its_seed(how):
    groups = _unbalanced()
    first, again, other = (balance(groups, how, seed, Report()) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_no_balance_leaves_all_and_counts_nothing():
    groups, report = _unbalanced(), Report()
    assert balance(groups, "none", 0, report) == groups
    assert not report.dropped


def test_fingerprints_change_with_prompts_responses_and_labels():
    groups = [_group([True, False], "p"), _group([False], "q")]
    prints = {
        fingerprint(groups),
        fingerprint(groups[::-1]),
        fingerprint(groups[:1]),
        fingerprint([_group([True, True], "p"), groups[1]]),
        fingerprint([_group([True, False], "P"), groups[1]]),
    }
    assert len(prints) == 5
    assert fingerprint(groups) == fingerprint([_group([True, False], "p"), _group([False], "q")])
    assert all(len(text) == 16 for text in prints)


def test_the_report_says_what_there_is_and_what_was_left_out():
    report = Report.of([_group([True, False]), _group([True, True]), _group([False, False, False])])
    assert (report.prompts, report.responses, report.correct, report.prompts_without_pair) == (3, 7, 3, 2)
    report.dropped["responses longer than the context"] += 2
    assert report.lines(needs_pairs=True) == [
        "3 prompts, 7 responses, 42.9% correct",
        "2 prompts have no correct-incorrect pair: unused by this loss",
        "left out: 2 responses longer than the context",
    ]
    assert report.lines(needs_pairs=False)[1] == "2 prompts have no correct-incorrect pair"
    assert Report.of([]).lines(needs_pairs=True) == ["0 prompts, 0 responses, 0.0% correct"]
