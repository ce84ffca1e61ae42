"""What is watched, by hand."""

import pytest
import torch

from implicit_prm import ImplicitPRMError
from implicit_prm.rl.monitor import parts_from_accuracy, reward_metrics, step_metrics
from implicit_prm.types import StepLabels
from tests.rl.test_advantages import padded


def test_size_and_place_of_rewards():
    rewards, mask = padded([[1.0, -2.0, 3.0], [4.0], [-1.0, -1.0]])
    newline = torch.tensor([[0, 1, 0], [0, 0, 0], [1, 0, 1]], dtype=torch.bool)  # the last one is padding
    found = reward_metrics(rewards, mask, newline, torch.tensor([0.0, 1.0, float("nan")]), torch.tensor([0, 0, 0]))
    shares = {"share_last": 8 / 12, "share_newline": 3 / 12}
    assert found == pytest.approx({"return": 4 / 3, **shares, "outcome_auroc": 1.0, "pair_accuracy": 1.0})


def test_pairs_of_a_prompt_leave_out_what_the_prompt_explains():
    """Of the prompts 0 and 1 the first has higher returns and more correct responses, but each has its pairs wrong."""
    rewards, mask = padded([[5.0], [5.5], [5.0], [1.0], [1.5], [1.5]])
    outcomes, groups = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0]), torch.tensor([0, 0, 0, 1, 1, 1])
    found = reward_metrics(rewards, mask, mask & False, outcomes, groups)
    assert found["outcome_auroc"] == pytest.approx(4 / 9)
    assert found["pair_accuracy"] == 0


def test_what_a_batch_does_not_define_is_left_out():
    rewards, mask = padded([[0.0, 0.0]])
    outcomes, groups = torch.tensor([1.0]), torch.tensor([0])
    assert reward_metrics(rewards, mask, mask, outcomes, groups) == {"return": 0.0}
    assert reward_metrics(rewards, mask & False, mask, outcomes, groups) == {}
    assert step_metrics(rewards, mask, torch.zeros(1, 2, dtype=torch.long), [StepLabels(())], outcomes, groups) == {}


def test_blame_and_the_order_of_steps():
    """Step means (1, -2, -3) and (2): right 1 and 2, first wrong -2. Of the negative values -4 - 3, -4 are on it."""
    values, mask = padded([[1.0, -4.0, 0.0, -3.0], [2.0, 2.0]])
    steps = torch.tensor([[0, 1, 1, 2], [0, 0, 0, 0]])
    labels = [StepLabels([True, False, True]), StepLabels([True])]
    found = step_metrics(values, mask, steps, labels, torch.tensor([0.0, 1.0]), torch.tensor([0, 0]))
    assert found == pytest.approx({"step_auroc": 1.0, "blame": 4 / 7})


def test_blame_is_over_the_responses_that_outcomes_alone_blame():
    """Not the correct response with a wrong step, nor that to a prompt without correct ones."""
    values, mask = padded([[-1.0, -3.0], [-1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    steps, labels = torch.tensor([[0, 1]] * 4), [StepLabels([True, False])] * 4
    outcomes, groups = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor([0, 0, 1, 1])
    found = step_metrics(values, mask, steps, labels, outcomes, groups)
    assert found["blame"] == pytest.approx(3 / 4)


def test_steps_by_another_rule_are_refused():
    values, mask = padded([[1.0, 2.0]])
    with pytest.raises(ImplicitPRMError, match="1 step labels but 2 steps"):
        step_metrics(values, mask, torch.tensor([[0, 1]]), [StepLabels([True])], torch.zeros(1), torch.zeros(1).long())


def test_a_return_that_rises_while_accuracy_falls():
    torch.manual_seed(0)
    noise, up = torch.randn(40) * 0.1, torch.linspace(0, 1, 40)
    rising, falling, level = (noise + up).tolist(), (noise - up).tolist(), noise.tolist()
    assert parts_from_accuracy(rising, falling)
    assert not parts_from_accuracy(rising, rising)
    assert not parts_from_accuracy(rising, level)
    assert not parts_from_accuracy(falling, falling)
    assert not parts_from_accuracy(rising[:39], falling[:39])
    assert not parts_from_accuracy([0.0] * 40, [1.0] * 40)
