"""scripts/study_rl.py: the options of all runs, measures worked by hand, the report, and a minimal study end to end."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import study_rl
from rllib import arms, curves
from rllib.curves import Arm, ratio, rollouts_to
from rllib.report import default, headline, sections
from rllib.results import Results
from studylib import work
from studylib.tasks import _hashes, _overrides

from implicit_prm import ImplicitPRMError
from implicit_prm.rl.run import prime_arguments
from implicit_prm.utils.io import write_json
from tests.conftest import write_rows

STUDY = Path(__file__).resolve().parents[2] / "scripts" / "study_rl.py"
INFINITE = float("inf")


def test_options_of_every_run_are_valid(tmp_path):
    tasks = arms.tasks(arms.ARMS, arms.Size(2, 1, 3, seeds=1))
    assert len({task.name for task in tasks}) == len(tasks)
    for place, task in enumerate(tasks):
        assert set(task.needs) <= {before.name for before in tasks[:place]}
        if task.name.startswith("frozen_") and "token_min" not in task.name:
            continue  # composing is slow, and only values differ
        config = work.options(work.COMMANDS[task.command], _overrides(task, tmp_path))
        if task.command == "rollout":
            assert config.problems.limit * config.sampling.n == arms.PRM_RESPONSES
        if task.command == "rl":
            arguments = prime_arguments(config)
            assert (arguments.max_steps, arguments.seed) == (2, 0)
            assert (arguments.eval_strategy == "no") == (config.dev_split is None) == task.name.startswith("online_")
            assert config.dev_split is None or config.dev_limit == 3
            assert (config.prm.kind == "implicit") or not task.needs
            if task.needs:
                assert config.prm.checkpoint == str(tmp_path / "prm" / "0")
            assert arguments.per_device_train_batch_size == arms.ROLLOUTS_PER_STEP


def test_main_arms_run_first_with_all_seeds_then_those_of_the_quick_study():
    names = [task.name for task in arms.tasks(arms.selected(quick=False), arms.FULL) if task.command == "rl"]
    assert len(names) == len(arms.ARMS) * arms.FULL.seeds
    order = list(dict.fromkeys(name.split("/")[0] for name in names))
    quick = {arm.name for arm in arms.selected(quick=True)}
    assert set(order[: len(arms.MAIN)]) == set(arms.MAIN)
    assert set(order[: len(quick)]) == quick == {*arms.MAIN, *arms.ALSO_QUICK}


def test_new_seeds_follow_those_of_the_study():
    tasks = arms.tasks([arms.OUTCOME, arms.PRIME], arms.FULL, new=True)
    names = {task.name for task in tasks}
    assert names == {"rollouts", *(f"{name}/{seed}" for name in ("prm", "outcome", "prime") for seed in range(5, 10))}
    assert arms.runs(arms.PRIME, arms.FULL, new=True) == [task.name for task in tasks if task.name.startswith("prime")]


def test_named_arms_come_with_the_one_they_are_compared_with():
    assert [arm.name for arm in arms.selected(False, ["prime_min"])] == ["outcome", "prime_min"]
    with pytest.raises(ImplicitPRMError, match=r"primes.* outcome, "):
        arms.selected(False, ["primes"])


def arm(*accuracies, **metrics):
    """An arm with a dev accuracy after every step, per seed."""
    logs = []
    for accuracy in accuracies:
        rows = [{"step": step, "eval_rewards/correct/mean": value} for step, value in enumerate(accuracy)]
        rows += [
            {"step": step, "loss": 0.0, **{name: values[step] for name, values in metrics.items()}}
            for step in range(len(accuracy))
        ]
        logs.append(rows)
    return Arm(logs)


def test_rollouts_to_a_level_are_interpolated_on_smoothed_curves():
    curve = np.array([[0.0, 0.3, 0.6, 0.9]])  # smoothed: 0.1, 0.3, 0.6, 0.8
    steps = np.arange(4.0)
    assert rollouts_to(0.45, steps, curve) == pytest.approx([1.5])
    assert rollouts_to(0.1, steps, curve) == pytest.approx([0])
    assert rollouts_to(0.9, steps, curve) == [INFINITE]
    assert curves.areas(steps, curve) == pytest.approx([0.45])


def test_an_arm_that_is_twice_as_fast_needs_half_of_the_rollouts():
    slow = [0.02 * step for step in range(41)]
    fast = [min(0.04 * step, 0.9) for step in range(41)]
    found = ratio(arm(fast, fast), arm(slow, slow))
    assert found.interval.value == pytest.approx(0.5, abs=0.01)
    assert found.interval.low == found.interval.high
    assert found.reached == 1
    alone = ratio(arm(slow), arm(slow)).interval
    assert alone.value == 1
    assert np.isnan(alone.low)  # one seed has no interval


def test_runs_that_never_reach_the_level_count_as_slower():
    rising, flat = [0.1 * step for step in range(11)], [0.0] * 11
    found = ratio(arm(rising, flat), arm(rising, rising))
    assert found.interval.value == found.interval.high == INFINITE
    assert found.interval.low == 1
    assert 0.2 < found.reached < 0.3  # both draws are the rising one


def test_outcomes_that_learn_nothing_are_no_slower_than_others():
    rising, flat, falling = (
        [start + rise * step for step in range(11)] for start, rise in ((0, 0.1), (0, 0), (1, -0.1))
    )
    assert ratio(arm(rising, rising), arm(flat, flat)).interval.low == 1
    assert ratio(arm(flat, flat), arm(falling, falling)).interval.value == INFINITE


def test_an_interval_of_few_seeds_is_as_wide_as_students():
    """A percentile bootstrap of five values would be 0.63 of that."""
    values = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    found = curves.mean_interval(values)
    assert found.value == 0
    assert (found.high - found.low) / 2 == pytest.approx(2.776 * values.std(ddof=1) / 5**0.5, rel=0.1)
    assert curves.tail(2000) == pytest.approx(0.025, abs=0.001)
    assert np.isnan(curves.mean_interval(values[:1]).low)


FROZEN = arms.FROZEN.name


def results(names=None, **changes):
    """Fake results of some arms, by default all; `frozen`, `exact` and `shuffled` are faster than the rest."""
    slow, fast = [0.02 * step for step in range(31)], [min(0.05 * step, 0.9) for step in range(31)]
    metrics = {f"prm/{name}": [0.8] * 31 for name in ("outcome_auroc", "pair_accuracy", "step_auroc")}
    metrics["advantage/blame"] = [0.5] * 31
    found = {one.name: arm(slow, slow, **metrics) for one in arms.ARMS}
    found |= {name: arm(fast, fast, **metrics) for name in (FROZEN, "exact", arms.SHUFFLED.name)}
    found = {name: found[name] for name in names or found} | changes
    return Results(arms.Size(30, 1, 3, seeds=2), found, (0.3, 0.5))


SOME = ("outcome", "outcome_grpo", FROZEN, "prime")


def test_the_first_sentence_says_whether_the_goal_is_reached():
    whole = results(SOME)
    assert headline(whole).startswith("A dense reward reaches")
    assert arms.FROZEN.title in headline(whole)
    assert "8,000" in headline(whole)  # what its PRM was trained on
    slow = whole.found["outcome"]
    steps = range(31)
    uncertain = arm([min(0.3 * step, 0.9) for step in steps], [min(0.3 * step, 0.3) for step in steps])
    assert ratio(uncertain, slow).interval.value < ratio(whole.found[FROZEN], slow).interval.value
    assert arms.FROZEN.title in headline(results(SOME, prime=uncertain))  # its ratio is larger, but certain
    assert headline(results(SOME, **{FROZEN: slow})).startswith("No dense reward is shown")
    flat = arm([0.0] * 31, [0.0] * 31)
    assert headline(results(SOME, prime=flat, **{FROZEN: flat})).startswith("No dense reward of 2 ")


def test_new_seeds_decide():
    """The best of many arms owes a part of its ratio to the seeds that it was chosen with."""
    chosen = results(SOME)
    slow, fast, flat = chosen.found["outcome"], chosen.found[FROZEN], arm([0.0] * 31, [0.0] * 31)
    assert [one.name for one in chosen.to_confirm] == ["outcome", FROZEN]
    fast_again, slow_again, never = (
        Results(chosen.size, chosen.found, chosen.levels, {"outcome": slow, FROZEN: one}) for one in (fast, slow, flat)
    )
    assert headline(fast_again).startswith("A dense reward reaches")
    assert headline(slow_again).startswith("No dense reward is shown")
    assert "more than a run" in headline(never)
    verdicts = {section.title: section.verdict for section in sections(slow_again)}
    assert "1.00" in verdicts["E1: the best dense reward with new seeds"]
    assert "arm=outcome" in verdicts["Which default follows?"]
    assert "arm=frozen" in default(fast_again).verdict
    assert not results(SOME, **{FROZEN: slow}).to_confirm


def test_the_comparison_is_with_the_better_form_of_outcomes_alone():
    whole = results(SOME)
    assert whole.best_outcome is arms.OUTCOME
    better = results(SOME, outcome_grpo=whole.found[FROZEN])
    assert better.best_outcome is arms.GRPO
    assert headline(better).startswith("No dense reward is shown")
    assert "learning rate" not in headline(whole)
    assert "learning rate" in headline(results(SOME, **{"outcome_1.0e-3": whole.found[FROZEN]}))


def test_changes_of_prime_are_dense_rewards_too():
    whole = results(SOME)
    slow, fast = whole.found["outcome"], whole.found[FROZEN]
    found = results(SOME, prime_min=fast, outcome_filtered=fast, **{FROZEN: slow})
    assert headline(found).startswith("A dense reward reaches")
    assert "PRIME, the lowest reward" in headline(found)


@pytest.mark.parametrize("name", ["outcome_grpo", arms.SHUFFLED.name, "exact", "online_naive"])
def test_a_study_of_arms_without_a_usable_dense_reward_has_a_report(name):
    found = {one: results().found[one] for one in ("outcome", name)}
    assert sections(Results(results().size, found, (0.5,)))


def test_the_report_has_every_arm():
    titles = {}
    for section in sections(results()):
        titles |= {row[0]: section.title for table in section.tables for row in table.rows}
    assert {arm.title for arm in (*arms.E1, *arms.E3, *arms.E4)} <= titles.keys()
    some = {name: arm for name, arm in results().found.items() if name in ("outcome", "prime")}
    assert [section.title[:2] for section in sections(Results(arms.QUICK, some, (0.5,)))] == ["E1", "E2", "Wh"]


def test_the_report_of_finished_runs_has_those_with_new_seeds(tmp_path, monkeypatch):
    size = replace(arms.FULL, steps=30, seeds=2)
    logs = {name: found.logs[0] for name, found in results(("outcome", FROZEN)).found.items()}
    for new in (False, True):
        tasks = arms.tasks([arms.OUTCOME, arms.FROZEN], size, new=new)
        for task in tasks:
            write_json(tmp_path / task.name / "task.json", {"identity": _hashes(tasks)[task.name], "seconds": 1.0})
            if task.command == "rl":
                write_rows(tmp_path / task.name / "log.jsonl", logs[task.name.split("/")[0]])
    options = ["--only", FROZEN, "--seeds", "2", "--steps", "30", "--report-only", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["study_rl.py", *options])
    study_rl.main()
    page = (tmp_path / "rl-study.md").read_text()
    assert page.splitlines()[2].startswith("A dense reward reaches")
    assert "## E1: the best dense reward with new seeds" in page
    assert "missing" not in page


@pytest.mark.slow
def test_a_small_study_end_to_end_and_resumed(tmp_path):
    small = ("problems.limit=8", "grpo.per_device_train_batch_size=8", "grpo.num_generations=4")
    command = [sys.executable, str(STUDY), "--out", "out", "--steps", "6", "--jobs", "2", "--seeds", "1"]
    for only in (["prime"], ["prime", "exact"]):
        result = subprocess.run(
            [*command, "--only", *only, "--", *small, "grpo.eval_steps=2"],
            **{"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 900, "check": False},
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert result.returncode == 0, result.stderr[-3000:]
        page = (tmp_path / "out" / "rl-study.md").read_text()
        assert ("| exact steps, sum, 0.2 |" in page) == ("exact" in only)
        done = (tmp_path / "out" / "prime" / "0" / "task.json").stat().st_mtime_ns
        if only == ["prime"]:
            before = done
    assert done == before
    assert (tmp_path / "out" / "images" / "study-rl-accuracy.png").stat().st_size > 10_000
