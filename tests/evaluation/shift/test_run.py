"""Runs of task=shift: a scorer that reads the steps and one that reads the format, and a model."""

import json

import pytest

from implicit_prm import StepScores, evaluate_shift
from implicit_prm.config import PolicyConfig, ProblemsConfig, RolloutConfig, SamplingConfig, ShiftConfig
from implicit_prm.evaluation.shift import report
from implicit_prm.evaluation.shift.run import run_shift
from implicit_prm.sandbox import check_steps
from implicit_prm.types import ImplicitPRMError
from tests.conftest import graded_rows, write_rows
from tests.pages import Page

FAST = {"bootstrap_resamples": 50}


class Checker:
    """The exact checker: it reads what the steps say."""

    def score(self, problem, responses):
        return [
            StepScores(text, [], [float(right) for right in check_steps(problem, text, lenient=True)])
            for text in responses
        ]


class Characters:
    """The fewer plus signs at the start of the text the better; a header moves them."""

    def score(self, problem, responses):
        return [StepScores(text, [], [-float(text[:12].count("+")), len(text) / 1e3]) for text in responses]


def test_a_score_that_reads_the_steps_is_stable(tmp_path):
    metrics = evaluate_shift(graded_rows(6, 4), Checker(), output_dir=tmp_path, **FAST)
    assert set(report.applied(metrics)) == {"add_decimals", "add_step_headers", "add_blank_lines", "swap_operands"}
    assert "rename_variables, add_thousands_separators" in report.notes(metrics)[-1]  # one line for the same reason
    for row in report.applied(metrics).values():
        assert row["flips"]["value"] == 0.0
        assert row["accuracy"]["difference"]["value"] == 0.0
        assert row["change"]["value"] == 0.0
        assert row["responses"] == 24
    assert metrics["rewrites"]["rename_variables"]["skipped"] == {"unchanged": 24}
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics


def test_a_score_that_reads_the_format_is_not(tmp_path, capsys):
    rewrites = ["add_step_headers"]
    metrics = evaluate_shift(
        graded_rows(6, 4), Characters(), output_dir=tmp_path, rewrites=rewrites, aggregate="sum", **FAST
    )
    assert metrics["rewrites"]["add_step_headers"]["change"]["value"] > 0
    report.print_metrics(metrics)
    assert "add_step_headers" in capsys.readouterr().out
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Rewrites that keep the meaning" in page.text


def test_a_rewrite_with_another_answer_is_left_out(monkeypatch):
    """As if a rewrite were wrong: the grader finds another answer, the step checker another verdict."""
    from implicit_prm.evaluation.shift import pairs

    rows = [{"prompt": "1 + 1?", "completions": ["so\n\\boxed{2}", "\\boxed{3}"], "answer": "2"}]
    broken = {"add_blank_lines": lambda problem, text: text.replace("{3}", "{4}").replace("so", "and so")}
    monkeypatch.setattr(pairs, "REWRITES", broken)
    found = evaluate_shift(rows, Characters(), rewrites=["add_blank_lines"], **FAST)["rewrites"]["add_blank_lines"]
    assert (found["responses"], found["skipped"]) == (1, {"other_answer": 1})
    broken["add_blank_lines"] = lambda problem, text: text.replace(" = ", " = 1", 1)
    with pytest.raises(ImplicitPRMError, match="add_blank_lines"):
        evaluate_shift(graded_rows(2, 2), Characters(), rewrites=["add_blank_lines"], **FAST)


def test_a_model_by_the_command(tmp_path, tiny_folder, other_folder):
    candidates = write_rows(tmp_path / "candidates.jsonl", graded_rows(3, 3))
    rollout = RolloutConfig(
        PolicyConfig("sandbox"), ProblemsConfig("sandbox", prompt_template="{problem}"), SamplingConfig(), "c.jsonl"
    )
    config = ShiftConfig(
        checkpoint=str(tiny_folder),
        reference=str(other_folder),
        beta=1.0,
        steps="newline",
        candidates=str(candidates),
        rollout=rollout,
        output_dir=str(tmp_path / "out"),
        rewrites=["add_blank_lines", "swap_operands"],
        **FAST,
    )
    metrics = run_shift(config, lambda *_: None)
    assert metrics["rewrites"]["swap_operands"]["responses"] == 9
    written = (tmp_path / "out/scores.parquet").stat().st_mtime_ns
    config.aggregate = "sum"
    run_shift(config, lambda *_: None)
    assert (tmp_path / "out/scores.parquet").stat().st_mtime_ns == written  # another aggregate needs no scoring


def test_columns_have_no_scores_of_rewrites():
    rows = [{**row, "mine": [0.5] * 2} for row in graded_rows(2, 2)]
    with pytest.raises(ImplicitPRMError, match="scores_column=mine"):
        evaluate_shift(rows, "mine")
