"""Row forms: every one is read to the same groups, and every bad row is named with its way out."""

import math

import pytest

from implicit_prm.data.groups import load_groups
from implicit_prm.types import ImplicitPRMError
from tests.conftest import write_rows

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


def _jsonl(folder, rows):
    return str(write_rows(folder / "rows.jsonl", rows))


def _load(folder, rows, **options):
    return load_groups(_jsonl(folder, rows), **options)


def _as_set(groups):
    return {(g.prompt, text, label) for g in groups for text, label in zip(g.completions, g.correctness, strict=True)}


def _refused(source, *words, **options):
    with pytest.raises(ImplicitPRMError) as caught:
        load_groups(str(source), **options)
    for word in (str(source), *words):
        assert word in str(caught.value)


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
    assert group.step_labels == [(True, True), (False,)]
    assert group.step_label_source is None


def test_estimated_step_labels_are_numbers_and_say_who_made_them(tmp_path):
    labels = [[0.25, 1, None], None]
    (group,) = _load(tmp_path, [{**GROUPED[0], "step_labels": labels, "step_label_source": "math_shepherd"}])
    assert group.step_labels == [(0.25, 1, None), None]
    assert group.step_label_source == "math_shepherd"
    assert group.extra == {}


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
        ({**GOOD, "correctness": None}, ["row 2: 2 responses but 0 entries in correctness"]),
        ({**GOOD, "correctness": True}, ["row 2: correctness is True; it must be a list"]),
        ({**GOOD, "completions": "2"}, ["row 2: completions must be a list of texts"]),
        ({**GOOD, "completions": ["2", 3]}, ["row 2: completions must be a list of texts"]),
        ({**GOOD, "finished": ["yes", "no"]}, ["row 2: finished must be a list of true"]),
        ({**GOOD, "steps": ["2", "3"]}, ["row 2: steps must be a list of texts for each response"]),
        ({**GOOD, "finished": [True]}, ["row 2: 2 responses but 1 entries in finished"]),
        ({**GOOD, "finished": []}, ["row 2: 2 responses but 0 entries in finished"]),
        ({**GOOD, "steps": [["2"]]}, ["row 2: 2 responses but 1 entries in steps"]),
        ({**GOOD, "step_labels": [[True]]}, ["row 2: 2 responses but 1 entries in step_labels"]),
        ({**GOOD, "step_labels": [[True], True]}, ["row 2: response 1: expected a list of step labels"]),
        ({**GOOD, "step_labels": [[True], [1.5]]}, ["row 2: response 1: ", "1.5"]),
        ({**GOOD, "step_labels": [[math.nan], [1]]}, ["row 2: response 0: ", "nan"]),
        ({**GOOD, "step_labels": [["right"], [1]]}, ["row 2: response 0: ", "'right'"]),
        ({**GOOD, "step_label_source": 3}, ["row 2: step_label_source is 3"]),
        ({**GOOD, "prompt": ""}, ["row 2: the prompt is ''; it must be a text"]),
        ({**GOOD, "prompt": " \n"}, ["row 2: the prompt is ' \\n'; it must be a text"]),
        ({**GOOD, "prompt": None}, ["row 2: the prompt is None; it must be a text"]),
        ({**GOOD, "prompt": 7}, ["row 2: the prompt is 7; it must be a text"]),
        ({**GOOD, "prompt": [{"role": "user"}]}, ["row 2: the prompt is [{'role': 'user'}]; it must be a text"]),
        ({"problem": "p", "completions": ["a"], "correctness": [True]}, ["row 2: no column prompt", "problem"]),
        (UNPAIRED[0], ["row 2: no column completions, correctness, which other rows have; this one has"]),
    ],
)
def test_a_bad_grouped_row_is_named_with_the_way_out(tmp_path, row, words):
    _refused(_jsonl(tmp_path, [GOOD, row]), *words)


@pytest.mark.parametrize(
    ("labels", "word"),
    [(["yes", "no"], "'yes'"), ([2, 0], "2"), ([0.5, 1.0], "0.5"), (["1", "0"], "'1'"), (["true"] * 2, "'true'")],
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
        ({"prompt": "", "completion": "a", "label": True}, ["row 2: the prompt is ''; it must be a text"]),
    ],
)
def test_a_bad_unpaired_row_is_named(tmp_path, row, words):
    _refused(_jsonl(tmp_path, [UNPAIRED[0], row]), *words)


def test_a_bad_paired_row_is_named_by_its_row_number(tmp_path):
    rows = [PAIRED[0], PAIRED[1], {"prompt": "p", "chosen": "a", "rejected": ""}]
    _refused(_jsonl(tmp_path, rows), "row 3", "no response")


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


def _chat(*texts):
    roles = ["system", "user", "assistant"] if texts[0].startswith("Be") else ["user", "assistant"] * len(texts)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def test_a_chat_that_holds_the_prompt_too(tmp_path):
    """As in UltraFeedback-like sets: the prompt is a column, and chosen and rejected repeat it."""
    (plain,) = _load(tmp_path, [{"prompt": "1+1?", "chosen": "2", "rejected": "3"}])
    row = {"chosen": _chat("1+1?", "2"), "rejected": _chat("1+1?", "3")}
    assert _load(tmp_path, [{"prompt": "1+1?", **row}]) == [plain]
    (implicit,) = _load(tmp_path, [row])
    assert _load(tmp_path, [{"prompt": _chat("1+1?"), **row}]) == [implicit]
    assert (implicit.prompt, implicit.completions) == (_chat("1+1?"), ["2", "3"])
    (system,) = _load(
        tmp_path, [{"prompt": "1+1?", **{k: _chat("Be brief.", *[m["content"] for m in c]) for k, c in row.items()}}]
    )
    assert system.prompt == _chat("Be brief.", "1+1?")


def test_the_prompt_of_a_long_chat_is_all_but_its_last_message(tmp_path):
    shared = ("1+1?", "2", "And 2+2?")
    (group,) = _load(tmp_path, [{"chosen": _chat(*shared, "4"), "rejected": _chat(*shared, "5")}])
    assert (group.prompt, group.completions) == (_chat(*shared), ["4", "5"])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"chosen": "Q: 1? A: 1", "rejected": "Q: 1? A: 2"}, ["row 1: no prompt", "column prompt"]),
        ({"chosen": _chat("a", "b"), "rejected": _chat("c", "d")}, ["row 1: chosen and rejected differ before"]),
        ({"chosen": _chat("a"), "rejected": _chat("a", "b")}, ["row 1: chosen must end in an assistant"]),
        ({"chosen": _chat("a", "b")[1:], "rejected": _chat("a", "c")[1:]}, ["row 1: the prompt is None"]),
        ({"prompt": "p", "chosen": _chat("a", "b"), "rejected": "c"}, ["row 1: chosen has 1 messages before the last"]),
        ({"prompt": "p", "completion": _chat("p", "a", "q", "b"), "label": True}, ["row 1: completion has 3 messages"]),
        ({"prompt": "p", "completion": [{"role": "assistant", "content": None}], "label": True}, ["with a text"]),
    ],
)
def test_a_chat_that_is_no_prompt_with_one_response_is_refused(tmp_path, row, words):
    _refused(_jsonl(tmp_path, [row]), *words)


def test_labels_as_other_tools_write_them(tmp_path):
    for labels in ([1, 0], [1.0, 0.0], [True, False]):
        (group,) = _load(tmp_path, [{**GOOD, "correctness": labels}])
        assert group.correctness == [True, False]
        assert all(type(label) is bool for label in group.correctness)


def test_a_reference_is_the_answer_where_there_is_no_answer(tmp_path):
    (group,) = _load(tmp_path, [{**GOOD, "reference": "12"}])
    assert (group.answer, group.extra) == ("12", {})
    (group,) = _load(tmp_path, [{**GOOD, "reference": "12", "answer": "13"}])
    assert group.answer == "13"
