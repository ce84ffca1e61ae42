"""Opening the scorer of an evaluation: implicit PRMs and explicit reward models."""

import json

import pytest

from implicit_prm.baselines.run import fit
from implicit_prm.config import BestOfNConfig, ProcessBenchConfig, ScorerConfig, from_mapping
from implicit_prm.data.groups import load_groups
from implicit_prm.evaluation import scorer
from implicit_prm.evaluation.best_of_n import run as best_of_n
from implicit_prm.evaluation.process_bench import run as process_bench
from implicit_prm.types import ImplicitPRMError
from tests.baselines.runs import KINDS, baseline, labelled_file, quiet
from tests.conftest import graded_rows, write_rows


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory, tiny_folder):
    folder = tmp_path_factory.mktemp(request.param)
    rollouts = labelled_file(folder / "rows.jsonl")
    trainer = {"max_steps": 20, "learning_rate": 1e-2}
    fit(baseline(folder / "model", tiny_folder, rollouts, request.param, trainer=trainer), quiet)
    write_rows(folder / "candidates.jsonl", graded_rows(9, 4, seed=1))
    return request.param, folder


def _config(folder, **changes):
    options = {"checkpoint": str(folder / "model"), "candidates": str(folder / "candidates.jsonl")}
    return from_mapping(BestOfNConfig, options | {"bootstrap_resamples": 50, "vote_draws": 20} | changes)


def test_best_of_n_by_any_kind(run, tmp_path):
    """Step measures where there are scores of steps; of an outcome score, every aggregate is the score."""
    kind, folder = run
    metrics = best_of_n.run_best_of_n(_config(folder, output_dir=str(tmp_path)), quiet)
    assert (
        0
        < metrics["accuracy"]["PRM, min of steps"]["4"]["value"]
        <= metrics["accuracy"]["oracle (pass@N)"]["4"]["value"]
    )
    assert "log-likelihood of reference" not in metrics["accuracy"]
    assert metrics["votes"]["weight"] == "min over step"
    assert (metrics["steps"] == {}) == (kind == "orm")
    if kind == "orm":
        assert len({row["4"]["value"] for row in metrics["aggregates"].values()}) == 1


def test_scores_are_reused_for_the_same_checkpoint(run, tmp_path, monkeypatch):
    _, folder = run
    first = best_of_n.run_best_of_n(_config(folder, output_dir=str(tmp_path)), quiet)
    with monkeypatch.context() as patch:
        patch.setattr(scorer.RewardModel, "score", lambda *_: pytest.fail("scored again"))
        again = best_of_n.run_best_of_n(_config(folder, output_dir=str(tmp_path), aggregate="mean"), quiet)
    assert (
        again["accuracy"]["PRM, mean of steps"] == first["aggregates"]["mean"] | again["accuracy"]["PRM, mean of steps"]
    )
    opened = scorer.open_scorer(_config(folder), None, False)
    other = scorer.open_scorer(_config(folder, prompt_template="Q: {problem}"), None, False)
    assert opened.key([]) != other.key([])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beta": 0.1}, "beta"),
        ({"reference": "sandbox"}, "reference"),
        ({"quantization": "none"}, "quantization"),
        ({"over": "prefix"}, "over=prefix"),
        ({"over": "step_mean"}, "over=step_mean"),
    ],
)
def test_what_only_an_implicit_prm_has_is_refused(changes, words, run):
    with pytest.raises(ImplicitPRMError, match=words):
        scorer.open_scorer(_config(run[1], **changes), None, False)


def test_a_response_over_the_context_is_named_or_scores_lowest(run):
    _, folder = run
    rows = graded_rows(2, 2)
    rows[1]["completions"][1] = "1 + 1 = 2\n" * 60
    long = str(write_rows(folder / "long.jsonl", rows))
    with pytest.raises(ImplicitPRMError, match=r"response 1 .* 256"):
        best_of_n.prepare(_config(folder, candidates=long), quiet)
    groups, opened = best_of_n.prepare(_config(folder, candidates=long, too_long="lowest"), quiet)
    assert [len(one.step_rewards) > 0 for one in opened.score(groups[1])] == [True, False]


def test_processbench_takes_step_scores_and_refuses_an_outcome_score(run, tmp_path):
    kind, folder = run
    rows = []
    for group in graded_rows(12, 3):
        for text, labels in zip(group["completions"], group["step_labels"], strict=True):
            label = labels.index(False) if False in labels else -1
            row = {"id": f"pb-{len(rows)}", "generator": "sandbox", "problem": group["prompt"], "label": label}
            rows.append(row | {"steps": text.split("\n"), "final_answer_correct": label == -1})
    subset = str(write_rows(tmp_path / "pb.jsonl", rows))
    options = {"checkpoint": str(folder / "model"), "subsets": [subset], "output_dir": str(tmp_path / "out")}
    config = from_mapping(ProcessBenchConfig, options | {"bootstrap_resamples": 20})
    if kind == "orm":
        with pytest.raises(ImplicitPRMError, match="outcome reward model"):
            process_bench.run_process_bench(config, quiet)
        return
    metrics = process_bench.run_process_bench(config, quiet)
    assert "PRM, step scores" in metrics["mean_f1"]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["subsets"]["pb"]["solutions"] == 36


def test_max_length_limits_the_model_and_is_part_of_the_key(tmp_path, tiny_folder):
    groups = load_groups(str(write_rows(tmp_path / "candidates.jsonl", graded_rows(2, 3))))
    options = {"checkpoint": str(tiny_folder), "reference": "none", "beta": 1.0, "reference_cache": None}
    free, short = (
        scorer.open_scorer(ScorerConfig(**options, max_length=limit), "newline", skip_too_long=True)
        for limit in (None, 40)
    )
    assert (free.model.limit_tokens, short.model.limit_tokens) == (256, 40)
    assert all(score.step_rewards for group in groups for score in free.score(group))
    assert not any(score.step_rewards for group in groups for score in short.score(group))
    assert free.key(groups) != short.key(groups)


def test_max_length_limits_explicit_reward_models_too(run):
    _, folder = run
    groups = load_groups(str(folder / "candidates.jsonl"))
    short = scorer.open_scorer(_config(folder, max_length=30), None, True)
    assert short.model.limit_tokens == 30
    assert not any(score.step_rewards for group in groups for score in short.score(group))
    with pytest.raises(ImplicitPRMError, match="max_length"):
        best_of_n.prepare(_config(folder, max_length=30), quiet)
