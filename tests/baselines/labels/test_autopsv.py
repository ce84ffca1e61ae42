"""AutoPSV's rule by hand, and labels from a trained verifier."""

import json

import pytest

from implicit_prm.baselines import RewardModel
from implicit_prm.baselines.labels.autopsv import labels_of
from implicit_prm.baselines.labels.run import label
from implicit_prm.baselines.run import fit
from implicit_prm.config import AutoPSVConfig
from implicit_prm.data.groups import load_groups
from implicit_prm.types import ImplicitPRMError
from tests.baselines.runs import baseline, labelled_file, quiet


def test_rule_by_hand():
    """c_0 is the mean of 0.5 and 0.1. A fall to less than half is a drop, and all later steps are wrong too."""
    assert labels_of([[0.5, 0.6, 0.2, 0.9], [0.1, 0.1]], -0.5) == [[1, 1, 0, 0], [0, 0]]
    assert labels_of([[0.4, 0.2, 0.2]], -0.5) == [[1, 1, 1]]  # half is not below half
    assert labels_of([[0.4, 0.39]], 0.0) == [[1, 0]]
    assert labels_of([[0.4, 0.1]], -0.9) == [[1, 1]]
    assert labels_of([[], [0.3]], -0.5) == [[], [1]]


@pytest.fixture(scope="module")
def verifier(tmp_path_factory, tiny_folder):
    folder = tmp_path_factory.mktemp("verifier")
    rollouts = labelled_file(folder / "rows.jsonl", 12, 4)
    trainer = {"max_steps": 30, "learning_rate": 1e-2}
    fit(baseline(folder / "model", tiny_folder, rollouts, "value_head", labels="outcome", trainer=trainer), quiet)
    return folder


def test_labels_from_verifier_confidence(verifier, tmp_path):
    data = verifier / "rows.jsonl"
    config = AutoPSVConfig(input=str(data), output=str(tmp_path / "l.jsonl"), verifier=str(verifier / "model"))
    rows = [json.loads(line) for line in label(config, quiet).read_text().splitlines()]
    model = RewardModel.from_pretrained(verifier / "model")
    for group, row in zip(load_groups(str(data)), rows, strict=True):
        confidences = [one.step_rewards for one in model.score(group.prompt, group.completions)]
        for found, expected in zip(row["step_confidences"], confidences, strict=True):
            assert found == pytest.approx(expected)
        assert row["step_labels"] == labels_of(row["step_confidences"], -0.5)
        assert row["step_label_source"] == "autopsv"
        lengths = model.lengths(group.prompt, group.completions, group.finished)
        tokens = row["step_label_tokens"]
        assert (tokens["prompts"], tokens["responses"]) == (4, 4)
        assert tokens["prompt_tokens"] + tokens["response_tokens"] == sum(lengths)
    flat = [one for row in rows for some in row["step_labels"] for one in some]
    assert 0 < sum(flat) < len(flat)


def test_other_models_are_refused_as_verifier(verifier, tmp_path, tiny_folder):
    rollouts = verifier / "rows.jsonl"
    for kind, labels in (("orm", "outcome"), ("value_head", "hard")):
        fit(baseline(tmp_path / kind, tiny_folder, rollouts, kind), quiet)
        config = AutoPSVConfig(input=str(rollouts), output=str(tmp_path / "l.jsonl"), verifier=str(tmp_path / kind))
        with pytest.raises(ImplicitPRMError, match=f"kind={kind} labels={labels}"):
            label(config, quiet)
