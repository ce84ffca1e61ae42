"""Tokens of groups and the pieces that training cuts them into, by hand."""

from dataclasses import replace

import pytest

from implicit_prm.config import CEConfig, DPOConfig, EstimateConfig, KTOConfig
from implicit_prm.costs.operations import Tokens
from implicit_prm.costs.workload import Batching, Lengths, Piece, mean_workload, stated

GROUP = Lengths(11, [20, 30, 40, 100])
WHOLE = Batching(1000, checkpointing=False, loss=CEConfig())
CUT = Batching(90, checkpointing=False, loss=DPOConfig())


def test_shared_prompt_runs_once():
    (piece,) = GROUP.pieces(1000, shared=True)
    assert piece == Piece(prompt=10, rows=4, width=100, read=190)
    passed = GROUP.forward(1000, shared=True)
    assert passed == Tokens(10 + 400, 190, 10**2 / 2 + 4 * 100 * (100 / 2 + 10))


def test_plain_rows_repeat_the_prompt():
    (piece,) = GROUP.pieces(1000, shared=False)
    assert piece == Piece(prompt=0, rows=4, width=111, read=190)
    assert GROUP.forward(1000, shared=False) == Tokens(444, 190, 4 * 111**2 / 2)


def test_log_ratio_trainer_hold_similar_lengths():
    cut = GROUP.pieces(90, shared=True)
    assert [(piece.rows, piece.width) for piece in cut] == [(1, 100), (2, 40), (1, 20)]
    assert GROUP.forward(90, shared=True).padded == 10 + 100 + 80 + 20
    assert CUT.largest(GROUP) == cut[0]


def test_only_losses_over_whole_groups_run_pieces_twice():
    assert WHOLE.repeated(GROUP) == Tokens()
    assert replace(CUT, max_tokens=1000).repeated(GROUP) == Tokens()
    assert replace(CUT, loss=CEConfig()).repeated(GROUP) == Tokens()
    assert CUT.repeated(GROUP).padded == 80 + 20  # the first piece is not repeated, nor is the prompt
    assert replace(CUT, loss=KTOConfig(batch_unit="prompt")).repeated(GROUP) == GROUP.forward(90, shared=True)
    assert replace(CUT, loss=KTOConfig()).repeated(GROUP) == GROUP.forward(90, shared=False)
    assert replace(CUT, checkpointing=True, max_tokens=120).repeated(GROUP).padded == 2 * 41 + 2 * 51 - 51


def test_whole_groups_are_one_piece_of_plain_rows():
    whole = replace(CUT, whole=True)
    assert whole.pieces(GROUP) == [Piece(prompt=0, rows=4, width=111, read=190)]
    assert whole.trained(GROUP).padded == 444
    assert whole.repeated(GROUP) == Tokens()
    assert whole.reference(GROUP) == CUT.reference(GROUP)


def test_reference_shares_prompts_under_checkpointing_and_kto_runs_it_twice():
    assert replace(WHOLE, checkpointing=True).reference(GROUP) == GROUP.forward(1000, shared=True)
    assert replace(WHOLE, loss=KTOConfig()).reference(GROUP).padded == 2 * 410
    assert replace(WHOLE, loss=KTOConfig(form="paired")).reference(GROUP).padded == 410


def test_means_are_over_prompts_and_pieces_are_the_largest():
    small = Lengths(5, [10, 10])
    load = mean_workload([GROUP, small, small], 30, WHOLE, "here")
    assert (load.prompts, load.responses) == (30, 8 / 3)
    assert load.trained.padded == pytest.approx((410 + 2 * (4 + 20)) / 3)
    assert load.longest == WHOLE.largest(GROUP)
    assert load.typical == WHOLE.largest(small)


def test_stated_lengths_keep_their_mean_and_maximum():
    estimate = EstimateConfig("m", prompts=7, responses=8, prompt_tokens=100, response_tokens=400, longest_tokens=900)
    load = stated(estimate, 700, WHOLE)
    assert load.prompts == 7
    assert load.trained.read == pytest.approx(8 * 400, rel=0.01)
    assert load.longest.width == 600  # the data's limit is below the stated one
    assert stated(estimate, None, WHOLE).longest.width == 800
    assert stated(estimate, None, replace(WHOLE, checkpointing=True)).longest.width == 900
