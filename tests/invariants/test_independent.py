"""Scores, losses and trained weights equal those of an independent implementation (`independent.py`)."""

import pytest
import torch

from implicit_prm import ImplicitPRM, fit
from tests.conftest import graded_rows, write_rows
from tests.invariants import independent
from tests.runs import config, log, quiet, weights

BETA = 0.5


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", graded_rows(6, 4))


def test_scores(rows, tiny_folder, other_folder):
    prm = ImplicitPRM.from_pretrained(tiny_folder, str(other_folder), BETA, steps="newline", device="cpu")
    (policy, tokenizer), (reference, _) = (independent.load(f, torch.float64) for f in (tiny_folder, other_folder))
    for prompt, responses in independent.read(rows):
        for score, (response, *_) in zip(prm.score(prompt, [text for text, *_ in responses]), responses, strict=True):
            prompt_ids, response_ids, steps = independent.encode(tokenizer, prompt, response)
            with torch.no_grad():
                expected = independent.token_rewards(policy, reference, prompt_ids, response_ids, BETA)
            assert expected.abs().max() > 0.1, "nothing to compare"
            assert score.token_rewards == pytest.approx(expected.tolist(), abs=1e-5)
            sums = [float(total) for total in independent.step_sums(expected, steps)]
            assert score.step_rewards == pytest.approx(sums, abs=1e-5)
            assert score.prefix_values == pytest.approx(torch.tensor(sums).cumsum(0).tolist(), abs=1e-5)
            assert score.outcome_reward == pytest.approx(expected.sum().item(), abs=1e-5)


@pytest.mark.parametrize("loss", ["ce", "ce group mean", "dpo", "nca", "kto paired", "prefix", "steps"])
def test_a_run(loss, rows, tiny_folder, tmp_path):
    """A large epsilon: AdamW would otherwise divide rounding by itself where a gradient is zero."""
    schedule = {"max_steps": 4, "lr_scheduler_type": "constant", "learning_rate": 0.02, "adam_epsilon": 1e-3}
    batch = {"per_device_train_batch_size": 6, "max_grad_norm": 0.0, "weight_decay": 0.0}
    fit(config(tmp_path / "run", tiny_folder, rows, loss, **schedule, **batch), quiet)
    losses, policy = independent.train(tiny_folder, independent.read(rows), loss, BETA, 4, 0.02, 1e-3)
    assert [row["loss"] for row in log(tmp_path / "run") if "loss" in row] == pytest.approx(losses, rel=1e-5, abs=1e-6)
    trained, start = weights(tmp_path / "run"), weights(tiny_folder)
    for name, weight in policy.state_dict().items():
        torch.testing.assert_close(trained[name], weight, atol=1e-5, rtol=0)
    assert max((trained[name] - start[name]).abs().max() for name in start) > 1e-2, "nothing was learned"
