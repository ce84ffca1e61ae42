"""Rows of one response or one pair: columns of scores and of the responses survive the gathering into groups."""

from collections import Counter

import pytest

from implicit_prm.data.groups import load_groups, subset
from implicit_prm.types import ImplicitPRMError


def _only(rows, **options):
    (group,) = load_groups(rows, **options)
    return group


SCORED = [
    {"prompt": "1+1?", "completion": "2", "label": True, "prm": [0.9, 0.8], "orm": 0.9},
    {"prompt": "2+2?", "completion": "4", "label": True, "prm": [0.7], "orm": 0.7},
    {"prompt": "1+1?", "completion": "3", "label": False, "prm": [0.2], "orm": 0.1},
]


@pytest.mark.parametrize("graded", [True, False])
def test_score_columns_of_one_response_per_row_are_kept(graded):
    first, second = load_groups(SCORED, graded=graded)
    assert (first.completions, first.correctness) == (["2", "3"], [True, False])
    assert first.extra == {"prm": [[0.9, 0.8], [0.2]], "orm": [0.9, 0.1]}
    assert second.extra == {"prm": [[0.7]], "orm": [0.7]}


@pytest.mark.parametrize("text", ["completion", "response"])
@pytest.mark.parametrize("label", ["label", "correct", "correctness"])
def test_other_names_for_the_columns_of_one_response(text, label):
    rows = [{"question": r["prompt"], text: r["completion"], label: r["label"], "prm": r["prm"]} for r in SCORED]
    assert load_groups(rows) == load_groups(SCORED)
    assert load_groups(rows)[0].extra == {"prm": [[0.9, 0.8], [0.2]]}


def test_everything_else_that_a_response_may_bring():
    rows = [
        {"prompt": "p", "completion": "a\n\nb", "finished": True, "steps": ["a", "b"], "answer": 2, "model": "x"},
        {"prompt": "p", "completion": "c", "finished": False, "steps": ["c"], "answer": 2, "model": "y"},
    ]
    group = _only(rows, graded=False)
    assert (group.finished, group.steps, group.answer) == ([True, False], [["a", "b"], ["c"]], "2")
    assert (group.correctness, group.extra) == ([None, None], {"model": ["x", "y"]})
    labelled = [{**row, "label": True, "step_labels": [1.0] * len(row["steps"])} for row in rows]
    labelled[0]["step_label_source"] = "math_shepherd"
    group = _only(labelled)
    assert (group.step_labels, group.step_label_source) == ([(1.0, 1.0), (1.0,)], "math_shepherd")


def test_columns_of_a_pair_belong_to_their_side():
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 0.9, "score_rejected": 0.1, "source": "x"},
        {"prompt": "p", "chosen": "a", "rejected": "c", "score_chosen": 0.9, "score_rejected": 0.2, "source": "y"},
    ]
    dropped = Counter()
    group = _only(rows, dropped=dropped)
    assert (group.completions, group.correctness) == (["a", "b", "c"], [True, False, False])
    assert group.extra == {"score": [0.9, 0.1, 0.2], "source": ["x", "x", "y"]}
    assert dropped == {"responses that another row of their prompt repeats": 1}
    other = [{"prompt": "p", "chosen": "a", "rejected": "b", "chosen_score": 0.9, "rejected_score": 0.1}]
    assert _only(other).extra == {"score": [0.9, 0.1]}


def test_repeated_candidates_count_as_often_as_they_were_sampled():
    """They vote; in training data, a repeated response is left out."""
    rows = [SCORED[0], {**SCORED[0], "orm": 0.5}]
    assert _only(rows, graded=False).extra["orm"] == [0.9, 0.5]
    assert _only(rows).extra["orm"] == [0.9]


def test_ungraded_responses_are_read_for_scoring_only():
    rows = [{"prompt": "p", "completion": "a", "orm": 0.5}]
    assert _only(rows, graded=False).correctness == [None]
    with pytest.raises(ImplicitPRMError, match="row 1: has columns completion, orm, prompt"):
        load_groups(rows)


RESPONSES = [{"text": "2", "score": 0.9, "correct": True}, {"text": "3", "score": 0.1, "correct": False}]


def test_responses_that_are_objects_with_a_text():
    group = _only([{"prompt": "1+1?", "responses": RESPONSES}])
    assert (group.completions, group.correctness, group.extra) == (["2", "3"], [True, False], {"score": [0.9, 0.1]})
    texts = [{"text": one["text"]} for one in RESPONSES]
    group = _only([{"prompt": "1+1?", "responses": texts, "correctness": [True, False], "prm": [[0.5], [0.5]]}])
    assert (group.completions, group.correctness, group.extra) == (["2", "3"], [True, False], {"prm": [[0.5], [0.5]]})
    assert _only([{"prompt": "1+1?", "responses": texts}], graded=False).correctness == [None, None]


def test_responses_that_are_chats_of_one_message():
    chats = [[{"role": "assistant", "content": text}] for text in ("2", "3")]
    assert _only([{"prompt": "1+1?", "completions": chats, "correctness": [True, False]}]).completions == ["2", "3"]


@pytest.mark.parametrize("responses", [[{"score": 1.0}], [{"text": "a"}, "b"], [{"text": 3}], [[{"role": "user"}]]])
def test_responses_without_a_text_are_refused_by_row(responses):
    with pytest.raises(ImplicitPRMError, match="row 1: responses"):
        load_groups([{"prompt": "p", "responses": responses, "correct": [True] * len(responses)}])


def test_a_subset_takes_aligned_columns_along():
    group = _only(
        [{"prompt": "p", "completions": ["a", "b", "c"], "prm": [[1], [2], [3]], "tags": ["x"]}], graded=False
    )
    assert subset(group, [2, 0]).extra == {"prm": [[3], [1]], "tags": ["x"]}
