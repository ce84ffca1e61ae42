"""Math-Shepherd's labels: what is completed and counted, and equal labels after an interruption."""

import json
import math
import re

import pytest

from implicit_prm.baselines.labels import math_shepherd, run
from implicit_prm.config import MathShepherdConfig, PolicyConfig, SamplingConfig
from implicit_prm.rollouts.transformers_sampler import Completed
from implicit_prm.types import ImplicitPRMError
from tests.baselines.runs import quiet
from tests.conftest import graded_rows, write_rows


@pytest.fixture
def config(tmp_path):
    rollouts = write_rows(tmp_path / "rows.jsonl", graded_rows(7, 3))
    return MathShepherdConfig(
        input=str(rollouts),
        output=str(tmp_path / "labels.jsonl"),
        policy=PolicyConfig("sandbox"),
        sampling=SamplingConfig(n=4, max_new_tokens=48, batch_size=16),
        steps="newline",
        problems_at_once=3,
    )


def _rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_last_label_is_outcome_and_others_are_shares_of_m(config):
    rows = _rows(run.label(config, quiet))
    before, at = [], []  # right completions before, and at, the first wrong step
    for row, original in zip(rows, graded_rows(7, 3), strict=True):
        assert (row["step_label_source"], row["completions_per_step"]) == ("math_shepherd", 4)
        for counts, labels, text, correct in zip(
            row["step_counts"], row["step_labels"], row["completions"], row["correctness"], strict=True
        ):
            assert len(counts) == text.count("\n") + 1
            assert all(0 <= count <= 4 for count in counts)
            assert labels == [count / 4 for count in counts]
            assert counts[-1] == (4 if correct else 0)
        for truth, counts in zip(original["step_labels"], row["step_counts"], strict=True):
            if False in truth[:-1]:
                before += counts[: truth.index(False)]
                at.append(counts[truth.index(False)])
    assert sum(at) / len(at) < 0.4 < 0.8 < sum(before) / len(before)


def test_each_distinct_prefix_is_completed_once_and_graded(config, monkeypatch):
    """Every completion has the first problem's answer, so the expected counts are known."""
    original = graded_rows(7, 3)
    seen = []

    def always(model, encoder, prefixes, sampling):
        seen.extend((tuple(one.prompt_ids), tuple(one.ids), one.seed) for one in prefixes)
        assert len(prefixes) <= 16
        return [Completed([f"\\boxed{{{original[0]['answer']}}}", "no answer"] * 2, 9) for _ in prefixes]

    monkeypatch.setattr(math_shepherd, "complete", always)
    rows = _rows(run.label(config, quiet))
    assert len(seen) == len({(prompt, ids) for prompt, ids, _ in seen}) == len({seed for *_, seed in seen})
    for row in rows:
        right = 2 if row["answer"] == original[0]["answer"] else 0
        assert all(counts[:-1] == [right] * (len(counts) - 1) for counts in row["step_counts"])
        different = {
            "\n".join(text.split("\n")[: end + 1]) for text in row["completions"] for end in range(text.count("\n"))
        }
        tokens = row["step_label_tokens"]
        assert (tokens["prompts"], tokens["responses"], tokens["response_tokens"]) == (
            len(different),
            4 * len(different),
            9 * len(different),
        )
    assert sum(row["step_label_tokens"]["prompts"] for row in rows) == len(seen)
    assert sum(row["step_label_tokens"]["prompt_tokens"] for row in rows) == sum(len(p) + len(i) for p, i, _ in seen)


@pytest.mark.parametrize("died_after", [1, 3, 5])
def test_resumed_equals_uninterrupted(died_after, config, tmp_path):
    """Three problems share a block; killing the run within a block or a row does not change the labels."""
    whole = run.label(config, quiet).read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "labels.jsonl").write_bytes(b"".join(lines[:died_after]) + lines[died_after][:25])
    assert run.label(config, quiet).read_bytes() == whole


def test_labels_do_not_depend_on_batching(config, tmp_path):
    """Each prefix has its own random numbers, so other batch sizes give the same counts."""
    labels = [row["step_counts"] for row in _rows(run.label(config, quiet))]
    config.output, config.problems_at_once, config.sampling.batch_size = str(tmp_path / "again.jsonl"), 7, 5
    assert [row["step_counts"] for row in _rows(run.label(config, quiet))] == labels
    config.output, config.sampling.seed = str(tmp_path / "other.jsonl"), 1
    assert [row["step_counts"] for row in _rows(run.label(config, quiet))] != labels


def test_resuming_with_other_options_is_refused(config):
    run.label(config, quiet)
    config.sampling.n = 8
    with pytest.raises(ImplicitPRMError, match=r"sampling\.n=4.*=8"):
        run.label(config, quiet)


def test_reports_speed_and_agreement(config):
    said = []
    run.label(config, said.append)
    assert "responses/s" in said[0]
    share = float(re.search(r"([\d.]+)% agree", said[-1])[1])
    assert math.isfinite(share)
    assert share > 60


def test_groups_that_cannot_be_completed_are_refused_before_sampling(config, tmp_path, monkeypatch):
    monkeypatch.setattr(math_shepherd, "complete", None)
    config.sampling.max_new_tokens = 230
    with pytest.raises(ImplicitPRMError, match=r"max_new_tokens=230 .* 256 tokens"):
        run.label(config, quiet)
    rows = graded_rows(2, 2)
    for row in rows:
        del row["answer"]
    config.input, config.output = str(write_rows(tmp_path / "without.jsonl", rows)), str(tmp_path / "l2.jsonl")
    with pytest.raises(ImplicitPRMError, match="no answer"):
        run.label(config, quiet)
