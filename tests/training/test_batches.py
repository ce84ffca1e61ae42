"""What a loss is shown of the groups of a micro-batch, or of a piece of one."""

import math

import numpy as np
import torch

from implicit_prm.config import TextConfig
from implicit_prm.data.tokenization import Encoder
from implicit_prm.training import GroupDataset
from implicit_prm.training.batches import PADDING, ResponseRows, TrainingGroup, collate_responses, loss_inputs
from implicit_prm.types import Group
from tests.conftest import graded_rows

NAN = math.nan
ONE = TrainingGroup(
    [1, 2], ResponseRows([[5, 6, 7], [5]], None), [True, False], [[0, 0, 1], [0]], step_labels=[[1.0, 0.5], [NAN]]
)
TWO = TrainingGroup([1, 2], ResponseRows([[8, 9]], None), [True], [[0, 2]], step_labels=[[NAN, NAN, 0.0]])


def test_tokens_and_steps_are_aligned_and_padded():
    tokens = torch.arange(9.0).view(3, 3)
    inputs = loss_inputs([ONE, TWO], tokens.sum(-1), tokens)
    assert inputs.labels.tolist() == [True, False, True]
    assert inputs.groups.tolist() == [0, 0, 1]
    assert inputs.completion_mask.int().tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert inputs.step_of_token.tolist() == [[0, 0, 1], [0, 0, 0], [0, 2, 0]]
    assert inputs.step_labels.nan_to_num(-1).tolist() == [[1.0, 0.5, -1.0], [-1.0] * 3, [-1.0, -1.0, 0.0]]
    assert loss_inputs([ONE], tokens.sum(-1)).token_rewards is None


def test_a_piece_holds_what_it_was_given_in_its_order():
    group = TrainingGroup(
        [1, 2],
        ResponseRows([[5, 6], [7]], [np.zeros(2), np.ones(1)]),
        [True, False],
        [[0, 1], [0]],
        step_labels=[[1, 0], [1]],
    )
    piece = group.take([1, 0])
    assert (piece.labels, piece.step_of_token, piece.step_labels) == ([False, True], [[0], [0, 1]], [[1], [1, 0]])
    assert piece.rows.ids == [[7], [5, 6]]
    assert [len(values) for values in piece.rows.reference] == [1, 2]


def test_responses_of_one_prompt_are_put_together():
    other = TrainingGroup([3], ResponseRows([[4]], None), [False], [[0]], step_labels=[[NAN]])
    first, second = ONE.take([1]), ONE.take([0])
    groups = collate_responses([first, other, second])["groups"]
    assert [(group.prompt_ids, group.rows.ids, group.labels) for group in groups] == [
        ([1, 2], [[5], [5, 6, 7]], [False, True]),
        ([3], [[4]], [False]),
    ]
    assert groups[0].step_of_token == [[0], [0, 0, 1]]


def test_nothing_is_shown_as_nothing():
    for group in (PADDING, ONE.take([])):
        inputs = loss_inputs([group], torch.zeros(0), torch.zeros(0, 1))
        assert (inputs.labels.shape, inputs.step_of_token.shape, inputs.step_labels.shape) == ((0,), (0, 1), (0, 1))


def test_a_dataset_brings_step_labels_if_it_is_told_to(tokenizer):
    (row,) = graded_rows(1, 2)
    group = Group(
        "p", row["prompt"], row["completions"], row["correctness"], row["finished"], step_labels=row["step_labels"]
    )
    encoded = [Encoder(tokenizer, TextConfig(steps="newline")).group(group, step_labels=True)]
    assert GroupDataset(encoded)[0].step_labels is None
    (one,) = [GroupDataset(encoded, step_labels=True)[place] for place in range(1)]
    assert [list(map(bool, labels)) for labels in one.step_labels] == row["step_labels"]


def test_a_dataset_aligns_everything(tokenizer):
    from implicit_prm.config import TextConfig
    from implicit_prm.types import Group

    encoder = Encoder(tokenizer, TextConfig(steps="newline"))
    rows = graded_rows(3, 2)
    groups = [
        encoder.group(Group(r["id"], r["prompt"], r["completions"], r["correctness"], r["finished"])) for r in rows
    ]
    dataset = GroupDataset(groups, mismatched=True)
    for place in (0, 2):
        item, other = dataset[place], rows[(place + 1) % 3]
        assert item.labels == rows[place]["correctness"]
        for ids, steps, text in zip(item.rows.ids, item.step_of_token, rows[place]["completions"], strict=True):
            assert tokenizer.decode(ids[:-1]) == text
            assert ids[-1] == tokenizer.eos_token_id
            assert max(steps) == text.count("\n")
        assert [tokenizer.decode(ids[:-1]) for ids in item.mismatched.ids] == other["completions"]
