"""Best-of-N runs on candidates whose metrics can be worked out by hand."""

import json
import math

import numpy as np
import pytest

from implicit_prm.config import BestOfNConfig, PolicyConfig, ProblemsConfig, RolloutConfig, SamplingConfig
from implicit_prm.data.groups import load_groups
from implicit_prm.evaluation.best_of_n import figures, report
from implicit_prm.evaluation.best_of_n.curves import LIKELIHOOD, aggregated, best_of, vote_weights
from implicit_prm.evaluation.best_of_n.run import run_best_of_n
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.scoring.scorers import column_scorer
from implicit_prm.types import ImplicitPRMError
from tests.conftest import graded_rows, write_rows

ROLLOUT = RolloutConfig(
    PolicyConfig("sandbox"),
    ProblemsConfig("sandbox", prompt_template="{problem}"),
    SamplingConfig(),
    "candidates.jsonl",
)
# Problem 1: the vote goes to a wrong 7, the scores to the right 5. Problem 2: the other way round.
ROWS = [
    {
        "id": "one",
        "problem": "?",
        "answer": "5",
        "responses": ["\\boxed{7}", "\\boxed{7.0}", "\\boxed{5}", "no answer"],
        "scores": [[0.5, 0.4], [0.3], [0.9, 0.8], [0.1]],
    },
    {
        "id": "two",
        "problem": "?",
        "answer": "1/2",
        "responses": ["\\boxed{\\frac12}", "\\boxed{0.5}", "\\boxed{3}", "\\boxed{4}"],
        "scores": [[0.2], [0.2], [0.9], [0.1]],
    },
]


def _evaluate(tmp_path, rows=ROWS, **options):
    candidates = write_rows(tmp_path / "candidates.jsonl", rows)
    options = {"output_dir": str(tmp_path / "out"), "scores_column": "scores", "bootstrap_resamples": 100, **options}
    return run_best_of_n(BestOfNConfig(rollout=ROLLOUT, candidates=str(candidates), **options), lambda *_: None)


def _value(metrics, name, n):
    return metrics["accuracy"][name][str(n)]["value"]


def test_every_curve_by_hand(tmp_path):
    metrics = _evaluate(tmp_path)
    assert metrics["sizes"] == [1, 2, 4]
    assert metrics["unanswered_responses"] == 1
    assert _value(metrics, "random pick", 4) == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert _value(metrics, "PRM, min of steps", 1) == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert _value(metrics, "PRM, min of steps", 4) == pytest.approx((1 + 0) / 2)
    # Of the 6 pairs of problem one, 3 hold the right response; of problem two's, 3 are won by 0.9 and wrong.
    assert _value(metrics, "PRM, min of steps", 2) == pytest.approx((3 / 6 + 3 / 6) / 2)
    assert _value(metrics, "majority vote", 4) == pytest.approx((0 + 1) / 2)
    assert _value(metrics, "weighted vote", 4) == pytest.approx((1 + 0) / 2)  # 0.8 > 0.4 + 0.3, and 0.9 > 0.2 + 0.2
    assert _value(metrics, "oracle (pass@N)", 2) == pytest.approx((3 / 6 + 5 / 6) / 2)
    assert metrics["difference"]["PRM, min of steps - majority vote"]["4"]["value"] == pytest.approx(0.0)
    assert metrics["difference"]["PRM, min of steps - random pick"]["4"]["value"] == pytest.approx(0.5 - 3 / 8)
    assert metrics["aggregates"]["last"]["4"]["value"] == pytest.approx(0.5)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_another_aggregate_needs_no_new_scores(tmp_path):
    _evaluate(tmp_path)
    before = (tmp_path / "out" / "scores.parquet").stat().st_mtime_ns
    assert "PRM, max of steps" in _evaluate(tmp_path, aggregate="max")["accuracy"]
    assert (tmp_path / "out" / "scores.parquet").stat().st_mtime_ns == before


def test_a_cut_off_response_neither_votes_nor_wins(tmp_path):
    rows = [{**ROWS[0], "finished": [True, True, False, True]}, {**ROWS[1], "finished": [True] * 4}]
    metrics = _evaluate(tmp_path, rows)
    assert metrics["cut_off_responses"] == 1
    assert _value(metrics, "PRM, min of steps", 4) == 0.0
    assert _value(metrics, "weighted vote", 4) == 0.0


def test_an_unanswered_response_can_be_kept_from_winning(tmp_path):
    rows = [{**ROWS[0], "scores": [[0.5], [0.3], [0.8], [0.99]]}]
    assert _value(_evaluate(tmp_path, rows), "PRM, min of steps", 4) == 0.0
    assert _value(_evaluate(tmp_path, rows, unanswered="lowest"), "PRM, min of steps", 4) == 1.0


def test_a_response_without_a_scored_step_cannot_win(tmp_path):
    rows = [{**ROWS[0], "scores": [[], [], [0.001], []]}]
    metrics = _evaluate(tmp_path, rows)
    assert _value(metrics, "PRM, min of steps", 4) == 1.0
    assert _value(metrics, "weighted vote", 4) == 1.0


# Log-ratios that favour the right 5 by their lowest step, and by far by their sum.
SIGNED = [{**ROWS[0], "scores": [[-1.0, -1.0], [-2.0], [8.0, 0.5], [0.0]]}]


@pytest.mark.parametrize(
    ("options", "rule", "accuracy"),
    [
        ({}, "sigmoid(min over step)", 1.0),  # 0.27 + 0.12 < 0.62
        ({"vote_aggregate": "sum"}, "sigmoid(sum over step)", 1.0),
        # As the official code weighs: 0.4995 + 0.4995 > 0.502, almost one vote each.
        ({"vote_aggregate": "sum", "vote_scale": 0.001}, "sigmoid(0.001 * sum over step)", 0.0),
        ({"over": "prefix", "aggregate": "last"}, "sigmoid(last over prefix)", 1.0),
        ({"over": "prefix", "aggregate": "last", "vote_aggregate": "max"}, "sigmoid(max over step)", 1.0),
        ({"vote_aggregate": "product"}, "product over step", 1.0),  # 0.07 + 0.12 < 0.62
    ],
)
def test_what_a_vote_weighs(options, rule, accuracy, tmp_path):
    metrics = _evaluate(tmp_path, SIGNED, scores_kind="log_ratio", **options)
    assert metrics["votes"]["weight"] == rule
    assert _value(metrics, "weighted vote", 4) == accuracy
    assert _value(metrics, "majority vote", 4) == 0.0


def test_probabilities_weigh_as_they_are(tmp_path):
    assert _evaluate(tmp_path)["votes"]["weight"] == "min over step"
    assert _evaluate(tmp_path, vote_aggregate="mean")["votes"]["weight"] == "mean over step"


def test_vote_weights_by_hand():
    assert vote_weights(np.array([math.log(3), -math.inf]), True, 2.0) == pytest.approx([9 / 10, 0.0])
    assert vote_weights(np.array([0.25, -math.inf]), False, 1.0).tolist() == [0.25, 0.0]


def test_means_of_steps_rank_without_new_scores(tmp_path, tiny_folder, other_folder):
    rows = graded_rows(4, 3)
    options = {"checkpoint": str(tiny_folder), "reference": str(other_folder), "beta": 1.0, "scores_column": None}
    _evaluate(tmp_path, rows, steps="newline", **options)
    before = (tmp_path / "out" / "scores.parquet").stat().st_mtime_ns
    metrics = _evaluate(tmp_path, rows, steps="newline", over="step_mean", **options)
    assert (tmp_path / "out" / "scores.parquet").stat().st_mtime_ns == before
    assert metrics["aggregate"] == "min over step_mean"
    assert {"PRM, min of step means", "PRM, sum (as an ORM)"} < set(metrics["accuracy"])
    assert metrics["votes"]["weight"] == "sigmoid(min over step_mean)"


def test_ties_go_to_the_first_or_are_shared(tmp_path):
    rows = [{**ROWS[0], "scores": [[0.8], [0.3], [0.8], [0.1]]}]
    assert _value(_evaluate(tmp_path, rows), "PRM, min of steps", 4) == 0.0
    assert _value(_evaluate(tmp_path, rows, ties="shared"), "PRM, min of steps", 4) == 0.5


def test_a_response_without_an_answer_has_no_vote_and_keeps_its_label(tmp_path, capsys):
    """Response four of problem one says nothing that can be extracted; the file calls it correct."""
    graded = _evaluate(tmp_path, ROWS[:1])
    assert (graded["unanswered_responses"], graded["unanswered_correct_responses"]) == (1, 0)
    labelled = _evaluate(tmp_path, [{**ROWS[0], "correctness": [False, False, True, True]}])
    assert (labelled["unanswered_responses"], labelled["unanswered_correct_responses"]) == (1, 1)
    assert _value(labelled, "random pick", 1) == 0.5
    assert _value(labelled, "majority vote", 1) == 0.25
    report.print_metrics(graded)
    assert "labelled correct" not in capsys.readouterr().out
    report.print_metrics(labelled)
    assert "1 of them are labelled correct" in " ".join(capsys.readouterr().out.split())
    assert "labelled correct" in (tmp_path / "out/report.html").read_text()


def test_ranking_within_problems_is_reported(tmp_path, capsys):
    """Problem one: 0.8 beats all, 1.0. Problem two: 0.2, 0.2 against 0.9, 0.1, half of the pairs."""
    metrics = _evaluate(tmp_path)
    found = metrics["within_problem_auroc"]["PRM, min of steps"]
    assert (found["value"], found["problems"]) == (pytest.approx(0.75), 2)
    report.print_metrics(metrics)
    assert "within-problem AUROC, PRM, min of steps: 0.750" in capsys.readouterr().out
    assert "Within-problem AUROC" in (tmp_path / "out/report.html").read_text()


def test_diagnostics_are_reported(tmp_path, capsys, tiny_folder, other_folder):
    options = {"checkpoint": str(tiny_folder), "reference": str(other_folder), "beta": 0.5, "scores_column": None}
    metrics = _evaluate(tmp_path, graded_rows(4, 3), steps="newline", **options)
    assert metrics["length"]["unit"] == "tokens"
    assert set(metrics["length"]["scores"]) == {"PRM, min of steps", "PRM, sum (as an ORM)", LIKELIHOOD}
    shares = [row["magnitude"]["value"] for row in metrics["token_rewards"]["classes"].values()]
    assert sum(shares) == pytest.approx(1.0)
    assert metrics["token_rewards"]["classes"]["end of turn"]["tokens"]["value"] > 0
    assert [row["step"] for row in metrics["reference_test"]][-1] == "end"
    assert 0 < metrics["last_step"]["value"] < 1
    report.print_metrics(metrics)
    printed = capsys.readouterr().out
    assert "E[exp(q/beta)]" in printed  # not taken for markup
    for text in (printed, (tmp_path / "out/report.html").read_text()):
        assert "end of turn" in text
        assert "effective" in text
        assert "of any length" in text
        assert "by tenth" in text
        assert "|step reward|" in text
    # Scores that are read from the store have what fresh ones had.
    again = _evaluate(tmp_path, graded_rows(4, 3), steps="newline", **options)
    for name in ("length", "last_step", "token_rewards", "reference_test"):
        assert again[name] == metrics[name]


def test_probabilities_have_no_token_rewards(tmp_path):
    metrics = _evaluate(tmp_path)
    assert (metrics["token_rewards"], metrics["reference_test"], metrics["last_step"]) == ({}, [], {})
    assert metrics["length"]["unit"] == "characters"


def test_comparison_with_an_earlier_evaluation(tmp_path, capsys):
    """The earlier scores pick the right response to both problems, the present ones to the first."""
    rows = [{**ROWS[0], "other": [0.1, 0.1, 0.9, 0.0]}, {**ROWS[1], "other": [0.8, 0.2, 0.3, 0.1]}]
    earlier = str(tmp_path / "earlier")
    _evaluate(tmp_path, rows, scores_column="other", aggregate="last", output_dir=earlier)
    metrics = _evaluate(tmp_path, rows, against={"other": earlier})
    assert _value(metrics, "other", 4) == 1.0
    assert metrics["difference"]["PRM, min of steps - other"]["4"]["value"] == pytest.approx(-0.5)
    # Problem two: 0.8 beats 0.3 and 0.1, and 0.2 only 0.1: 3 of 4 pairs; of the present scores, 2 of 4.
    row = metrics["within_problem_auroc"]["other"]
    assert row["value"] == pytest.approx((1 + 0.75) / 2)
    assert row["difference"]["value"] == pytest.approx(-0.25 / 2)
    report.print_metrics(metrics)
    assert "within-problem AUROC, PRM, min of steps - other: -0.125" in " ".join(capsys.readouterr().out.split())
    assert "minus other" in (tmp_path / "out/report.html").read_text()


def test_an_earlier_evaluation_of_other_candidates_is_refused(tmp_path):
    earlier = str(tmp_path / "earlier")
    changed = {**ROWS[0], "responses": [*ROWS[0]["responses"][:3], "another"]}
    _evaluate(tmp_path, [changed, ROWS[1]], output_dir=earlier)
    damaged = tmp_path / "damaged" / "metrics.json"
    damaged.parent.mkdir()
    damaged.write_text('{"config": ')
    for against, words in (
        ({"other": earlier}, "against.other=.*fingerprint"),
        ({"other": str(tmp_path)}, "against.other=.*metrics.json"),
        ({"majority vote": earlier}, "against.majority vote"),
        ({"PRM": earlier}, "against.PRM"),
        ({"other": ""}, "against.other"),
        ({"other": str(damaged.parent)}, "against.other=.*metrics.json"),
    ):
        with pytest.raises(ImplicitPRMError, match=words):
            _evaluate(tmp_path, against=against)


def test_bad_input_is_refused_before_anything_is_graded_or_loaded(tmp_path, monkeypatch):
    from implicit_prm.evaluation import scorer
    from implicit_prm.evaluation.best_of_n import candidates

    for module, name in ((scorer, "ImplicitPRM"), (scorer, "RewardModel"), (candidates, "Grader")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("too late"))
    bad_score = [ROWS[0], {**ROWS[1], "scores": [[0.2], [0.2], [0.9], [1.1]]}]
    too_many = [ROWS[0], {**ROWS[1], "steps": [["a"]] * 4, "scores": [[0.2], [0.2], [0.9, 0.1], [0.1]]}]
    no_answer = [ROWS[0], {**ROWS[1], "answer": None}]
    for rows, options, words in (
        (ROWS, {"scores_column": "score"}, "score.*scores"),
        (bad_score, {}, "two, response 3.*1.1"),
        (too_many, {}, "two, response 2.*steps"),
        (no_answer, {}, "two.*answer"),
        (no_answer, {"scores_column": None, "checkpoint": str(tmp_path)}, "two.*answer"),
        ([{"problem": "?"}], {"scores_column": None, "checkpoint": str(tmp_path)}, "columns"),
    ):
        with pytest.raises(ImplicitPRMError, match=words):
            _evaluate(tmp_path, rows, **options)


def test_what_cannot_be_graded_is_named(tmp_path):
    rows = [{key: value for key, value in ROWS[0].items() if key != "answer"}]
    with pytest.raises(ImplicitPRMError, match=r"one: .*answer"):
        _evaluate(tmp_path, rows)


def test_the_table_prints_at_80_columns(tmp_path, capsys):
    from rich.console import Console

    console = Console(width=80, record=True)
    report.print_metrics(_evaluate(tmp_path), console)
    text = console.export_text()
    assert "PRM, min of steps" in text
    assert "best-of-4 by aggregate: min 0.500" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_figure_names_its_axes(tmp_path):
    axes = figures.accuracy_figure(_evaluate(tmp_path)).axes[0]
    assert axes.get_xlabel() == "N, responses to choose from"
    assert axes.get_ylabel() == "accuracy (%)"
    assert len(axes.lines) == 5


@pytest.mark.shared
def test_the_published_figures_of_a_real_prm_are_reproduced(shared_data):
    """Best-of-32 on MATH-500 from Qwen2.5-Math-PRM-7B's step scores, the figures that come with the pool."""
    groups = load_groups(str(shared_data / "math500_bon32.jsonl.gz"), graded=False)
    score = column_scorer("qwen25_math_prm_7b", "probability")
    scores = [score(group) for group in groups]
    candidates = [
        Candidates(np.array(group.correctness, dtype=bool), np.zeros(32, dtype=int), np.ones(32, dtype=bool))
        for group in groups
    ]
    accuracy = {
        how: best_of(candidates, aggregated(scores, how, "step"), [32], "first").mean()
        for how in ("min", "last", "product", "mean")
    }
    assert {how: round(value, 3) for how, value in accuracy.items()} == {
        "min": 0.844,
        "last": 0.812,
        "product": 0.848,
        "mean": 0.842,
    }
