"""Scorers and the options of each task."""

import pytest

from implicit_prm.config import BestOfNConfig, ProcessBenchConfig, ShiftConfig, from_mapping
from tests.config.examples import BEST_OF_N, PROCESS_BENCH, assert_refused, changed

FROM_FILE = {"scores_column": "s", "candidates": "c.jsonl", "checkpoint": None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": None}, ["checkpoint=FOLDER", "scores_column=NAME"]),
        ({"scores_column": "s"}, ["scores_column", "candidates=FILE"]),
        ({"scores_column": "s", "candidates": "c.jsonl"}, ["checkpoint", "scores_column"]),
        (FROM_FILE | {"beta": 0.1}, ["beta", "scores_column"]),
        (FROM_FILE | {"steps": "newline"}, ["steps", "scores_column"]),
        (FROM_FILE | {"over": "prefix"}, ["over=prefix", "over=step"]),
        (FROM_FILE | {"over": "step_mean"}, ["over=step_mean", "over=step"]),
        (FROM_FILE | {"over": "step_mean", "scores_kind": "log_ratio"}, ["over=step_mean", "over=step"]),
        (FROM_FILE | {"output_dir": None}, ["output_dir"]),
        ({"beta": 0}, ["beta is 0.0"]),
        ({"beta": float("nan")}, ["beta is nan"]),
        ({"beta": 1e308}, ["beta is 1e+308"]),
        ({"max_length": -1}, ["max_length is -1"]),
        ({"max_tokens_per_batch": 0}, ["max_tokens_per_batch is 0"]),
        ({"max_responses": 0}, ["max_responses is 0"]),
        ({"seed": -1}, ["seed is -1"]),
        ({"vote_draws": 0}, ["vote_draws is 0"]),
        ({"bootstrap_resamples": 0}, ["bootstrap_resamples is 0"]),
        ({"aggregate": "median"}, ["aggregate=median", "min, max, last, mean, sum, product"]),
        ({"over": "token_mean"}, ["over=token_mean", "step, step_mean, prefix"]),
        ({"vote_aggregate": "median"}, ["vote_aggregate=median"]),
        ({"vote_scale": 0}, ["vote_scale is 0.0"]),
        ({"vote_scale": float("inf")}, ["vote_scale is inf"]),
        ({"vote_scale": 0.02, "aggregate": "product"}, ["vote_scale=0.02"]),
        (FROM_FILE | {"vote_scale": 0.02}, ["vote_scale=0.02"]),
    ],
)
def test_invalid_best_of_n_options_are_refused(changes, words):
    assert_refused(BestOfNConfig, changed(BEST_OF_N, **changes), *words)


def test_votes_are_weighted_by_the_score_that_ranks_or_by_step_rewards():
    config = from_mapping(BestOfNConfig, changed(BEST_OF_N, aggregate="last", over="prefix"))
    assert config.votes_over == ("last", "prefix")
    changes = {"aggregate": "last", "over": "prefix", "vote_aggregate": "sum", "vote_scale": 0.02}
    assert from_mapping(BestOfNConfig, changed(BEST_OF_N, **changes)).votes_over == ("sum", "step")


def test_a_column_of_log_ratios_has_prefix_values():
    changes = FROM_FILE | {"over": "prefix", "scores_kind": "log_ratio"}
    assert from_mapping(BestOfNConfig, changed(BEST_OF_N, **changes)).over == "prefix"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": None}, ["checkpoint=FOLDER"]),
        ({"scores_column": "s"}, ["checkpoint", "scores_column"]),
        ({"candidates": "c.jsonl"}, ["candidates"]),
        ({"aggregate": "min"}, ["aggregate"]),
        ({"steps": "newline"}, ["steps"]),
        ({"task": "best_of_n"}, ["task=best_of_n", "processbench"]),
        ({"subsets": []}, ["subsets=[]"]),
        ({"subsets": ["gsm8k", "data/gsm8k.json"]}, ["subsets", "gsm8k, gsm8k"]),
        ({"threshold": "gsm"}, ["threshold=gsm", "cross_fit", "gsm8k, math"]),
        ({"threshold": "gsm8k", "subsets": ["gsm8k"]}, ["threshold=gsm8k", "threshold=cross_fit"]),
        ({"threshold": "0.5"}, ["threshold=0.5", "a number"]),
        ({"threshold": float("nan")}, ["threshold is nan"]),
        ({"threshold": True}, ["threshold=True"]),
        ({"too_long": "lowest"}, ["too_long=lowest", "error, wrong"]),
        ({"bootstrap_resamples": 0}, ["bootstrap_resamples is 0"]),
        ({"max_problems": 0}, ["max_problems is 0"]),
    ],
)
def test_invalid_processbench_options_are_refused(changes, words):
    assert_refused(ProcessBenchConfig, PROCESS_BENCH | changes, *words)


def test_a_threshold_is_cross_fit_a_subset_or_a_number():
    for threshold in ("cross_fit", "pb_gsm8k", 0, -1.5):
        changes = {"checkpoint": "folder", "subsets": ["data/pb_gsm8k.jsonl.gz", "math"], "threshold": threshold}
        config = from_mapping(ProcessBenchConfig, changes)
        assert config.threshold == threshold
        assert config.sources == {"pb_gsm8k": "data/pb_gsm8k.jsonl.gz", "math": "math"}


def test_results_are_written_to_output_dir_or_into_the_checkpoint():
    assert from_mapping(BestOfNConfig, BEST_OF_N).folder == "outputs"
    assert from_mapping(BestOfNConfig, changed(BEST_OF_N, output_dir=None)).folder == "folder/eval"
    assert from_mapping(ProcessBenchConfig, PROCESS_BENCH).folder == "folder/processbench"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores_column": "s", "candidates": "c.jsonl", "checkpoint": None}, ["scores_column=s", "evaluate_shift"]),
        ({"steps": "given"}, ["steps=given"]),
        ({"rewrites": []}, ["rewrites"]),
        ({"rewrites": ["swap_operands", "swap_operands"]}, ["rewrites"]),
        ({"rewrites": ["paraphrase"]}, ["rewrites[0]=paraphrase", "swap_operands"]),
        ({"candidates": None, "rollout": None}, ["candidates=FILE"]),
    ],
)
def test_invalid_options_of_rewrites_are_refused(changes, words):
    assert_refused(ShiftConfig, changed(BEST_OF_N, **changes), *words)


def test_each_task_has_a_folder_in_the_checkpoint():
    folders = {cls: from_mapping(cls, {**BEST_OF_N, "output_dir": None}).folder for cls in (BestOfNConfig, ShiftConfig)}
    assert folders == {BestOfNConfig: "folder/eval", ShiftConfig: "folder/shift"}
    assert from_mapping(ProcessBenchConfig, PROCESS_BENCH).folder == "folder/processbench"
