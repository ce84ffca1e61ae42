"""Tokens of groups by hand, in the pieces that training cuts them into."""

from dataclasses import replace

import pytest

from implicit_prm.config import CEConfig, DPOConfig, EstimateConfig, KTOConfig
from implicit_prm.costs.workload import Lengths, Piece, Tokens, Way, of_lengths, stated

GROUP = Lengths(11, [20, 30, 40, 100])
WHOLE = Way(1000, checkpointing=False, loss=CEConfig())
CUT = Way(90, checkpointing=False, loss=DPOConfig())


def test_a_shared_prompt_is_run_once_and_responses_behind_it():
    (piece,) = GROUP.pieces(1000, shared=True)
    assert piece == Piece(prompt=10, rows=4, width=100, read=190)
    passed = GROUP.pass_through(1000, shared=True)
    assert passed == Tokens(10 + 400, 190, 10**2 / 2 + 4 * 100 * (100 / 2 + 10))


def test_plain_rows_repeat_the_prompt():
    (piece,) = GROUP.pieces(1000, shared=False)
    assert piece == Piece(prompt=0, rows=4, width=111, read=190)
    assert GROUP.pass_through(1000, shared=False) == Tokens(444, 190, 4 * 111**2 / 2)


def test_pieces_hold_similar_lengths():
    cut = GROUP.pieces(90, shared=True)
    assert [(piece.rows, piece.width) for piece in cut] == [(1, 100), (2, 40), (1, 20)]
    assert GROUP.pass_through(90, shared=True).padded == 10 + 100 + 80 + 20
    assert CUT.largest(GROUP) == cut[0]


def test_only_a_loss_that_looks_at_whole_groups_runs_pieces_twice_and_not_the_first():
    assert WHOLE.repeated(GROUP) == Tokens()
    assert replace(CUT, max_tokens=1000).repeated(GROUP) == Tokens()
    assert replace(CUT, loss=CEConfig()).repeated(GROUP) == Tokens()
    assert CUT.repeated(GROUP).padded == 80 + 20  # the first of 100 stays; the prompt's graph serves both
    assert replace(CUT, loss=KTOConfig()).repeated(GROUP) == GROUP.pass_through(90, shared=True)
    assert replace(CUT, checkpointing=True, max_tokens=120).repeated(GROUP).padded == 2 * 41 + 2 * 51 - 51


def test_under_deepspeed_a_group_is_one_piece_of_plain_rows():
    whole = replace(CUT, whole=True)
    assert whole.pieces(GROUP) == [Piece(prompt=0, rows=4, width=111, read=190)]
    assert whole.trained(GROUP).padded == 444
    assert whole.repeated(GROUP) == Tokens()
    assert whole.asked(GROUP) == CUT.asked(GROUP)


def test_the_reference_shares_prompts_with_checkpointing_too_and_kto_asks_it_twice():
    assert replace(WHOLE, checkpointing=True).asked(GROUP) == GROUP.pass_through(1000, shared=True)
    assert replace(WHOLE, loss=KTOConfig()).asked(GROUP).padded == 2 * 410
    assert replace(WHOLE, loss=KTOConfig(form="paired")).asked(GROUP).padded == 410


def test_means_are_over_prompts_and_the_largest_piece_counts():
    small = Lengths(5, [10, 10])
    load = of_lengths([GROUP, small, small], 30, WHOLE, "here")
    assert (load.prompts, load.responses) == (30, 8 / 3)
    assert load.trained.padded == pytest.approx((410 + 2 * (4 + 20)) / 3)
    assert load.longest == WHOLE.largest(GROUP)
    assert load.typical == WHOLE.largest(small)


def test_stated_lengths_keep_their_mean_and_their_bound():
    estimate = EstimateConfig("m", prompts=7, responses=8, prompt_tokens=100, response_tokens=400, longest_tokens=900)
    load = stated(estimate, 700, WHOLE)
    assert load.prompts == 7
    assert load.trained.read == pytest.approx(8 * 400, rel=0.01)
    assert load.longest.width == 600  # the data's bound is below the stated one
    assert stated(estimate, None, WHOLE).longest.width == 800
    assert stated(estimate, None, replace(WHOLE, checkpointing=True)).longest.width == 900
