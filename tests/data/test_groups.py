"""What is done with groups: drawing, balancing, fingerprints; and what is refused of a whole set of them."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from implicit_prm.data.groups import (
    balance,
    fingerprint,
    is_mixed,
    labelled_responses,
    load_groups,
    subset,
    take_responses,
)
from implicit_prm.types import Group, ImplicitPRMError
from tests.conftest import write_rows


def _group(labels, prompt="p"):
    texts = [f"{prompt}{place}" for place in range(len(labels))]
    return Group(prompt, prompt, texts, list(labels), [True] * len(labels))


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
    (group,) = load_groups(str(write_rows(tmp_path / "rows.jsonl", [row])))
    taken = subset(group, [2, 1])
    assert (taken.id, taken.prompt) == (group.id, "p")
    assert (taken.completions, taken.correctness, taken.finished) == (["c", "b"], [True, False], [True, False])
    assert (taken.steps, taken.step_labels) == ([["c"], ["b"]], [(True,), (False,)])
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
    groups, dropped = _unbalanced(), Counter()
    balanced = balance(groups, "dataset", 0, dropped)
    before, after = (list(map(sum, _classes(g))) for g in (groups, balanced))
    assert before[0] != before[1]
    assert after == [min(before)] * 2
    assert dropped == {"responses to balance the labels (loss.balance=dataset)": sum(before) - sum(after)}
    kept, there = ({(g.prompt, text) for g in some for text in g.completions} for some in (balanced, groups))
    assert kept < there


def test_balance_within_prompts_evens_out_every_prompt():
    groups, dropped = [*_unbalanced(), _group([True, True], "one kind"), _group([False] * 3, "other kind")], Counter()
    balanced = balance(groups, "prompt", 0, dropped)
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
    assert dropped == {"responses to balance the labels (loss.balance=prompt)": left_out}


@pytest.mark.parametrize("how", ["dataset", "prompt"])
def test_balance_draws_with_its_seed(how):
    groups = _unbalanced()
    first, again, other = (balance(groups, how, seed, Counter()) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_no_balance_leaves_all_and_counts_nothing():
    groups, dropped = _unbalanced(), Counter()
    assert balance(groups, "none", 0, dropped) == groups
    assert not dropped


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


def test_step_labels_change_the_fingerprint_of_what_reads_them():
    right, wrong = (replace(_group([True]), step_labels=[[label]]) for label in (True, False))
    assert fingerprint([right]) == fingerprint([wrong])
    assert fingerprint([right], step_labels=True) != fingerprint([wrong], step_labels=True)


def test_which_responses_have_a_step_label():
    group = replace(_group([True] * 4), step_labels=[[None, 0.0], None, [], [None]])
    assert labelled_responses(group) == [0]
    assert labelled_responses(_group([True])) == []


def _rows(*prompts):
    return [{"prompt": prompt, "completions": ["a", "b"], "correctness": [True, False]} for prompt in prompts]


def test_an_id_that_two_rows_give_is_refused(tmp_path):
    rows = [{**row, "id": name} for name, row in zip("xyx", _rows("p", "q", "r"), strict=True)]
    path = str(write_rows(tmp_path / "rows.jsonl", rows))
    with pytest.raises(ImplicitPRMError, match=r"row 3: id 'x' .*row 1"):
        load_groups(path)
    again = str(write_rows(tmp_path / "again.jsonl", _rows("p", "p")))
    assert len(load_groups(again)) == 2, "without ids, a prompt may be asked twice"


def test_a_limit_takes_the_first_prompts_with_all_of_their_responses(tmp_path):
    path = str(write_rows(tmp_path / "rows.jsonl", _rows(*"pqr")))
    assert load_groups(path, limit=2) == load_groups(path)[:2]
    flat = [{"prompt": p, "completion": c, "label": c == "x"} for p, c in ("px", "qx", "rx", "py", "qy", "ry", "qx")]
    path, dropped = str(write_rows(tmp_path / "flat.jsonl", flat)), Counter()
    groups = load_groups(path, limit=2, dropped=dropped)
    assert [(group.prompt, group.completions) for group in groups] == [("p", ["x", "y"]), ("q", ["x", "y"])]
    assert dropped == {"responses that another row of their prompt repeats": 1}
