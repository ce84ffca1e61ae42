"""Advantages against numbers worked by hand; no result depends on order, padding or who holds which response."""

import math

import pytest
import torch

from implicit_prm import ImplicitPRMError
from implicit_prm.rl import advantages
from implicit_prm.rl.advantages import (
    combined,
    in_accuracy_range,
    outcome_advantages,
    process_advantages,
    scaled,
    value_advantages,
)

NAN = float("nan")


def padded(rows):
    """[N, T] values and mask."""
    width = max(map(len, rows))
    values = torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows])
    return values, torch.tensor([[place < len(row) for place in range(width)] for row in rows])


def test_outcomes_minus_the_mean_of_the_others():
    outcomes, groups = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0]), torch.tensor([7, 7, 7, 2, 2])
    assert outcome_advantages(outcomes, groups).tolist() == [1.0, -0.5, -0.5, 0.0, 0.0]
    means = outcome_advantages(outcomes, groups, "group_mean")
    torch.testing.assert_close(means, torch.tensor([2 / 3, -1 / 3, -1 / 3, 0, 0]))


def test_outcomes_as_in_grpo():
    """TRL: (reward - mean) / (std + 1e-4), with the unbiased standard deviation."""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.25, 0.5, 1.0, 0.0]])
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    groups = torch.tensor([5] * 4 + [3] * 4)
    found = outcome_advantages(rewards.flatten(), groups, "group_mean", divide_by_std=True)
    torch.testing.assert_close(found, expected.flatten())


def test_outcomes_that_are_not_graded_count_for_nobody():
    outcomes, groups = torch.tensor([1.0, NAN, 0.0, 0.5]), torch.tensor([0, 0, 0, 1])
    assert outcome_advantages(outcomes, groups).tolist() == [1.0, 0.0, -1.0, 0.0]  # the last is alone


def test_prime_returns_by_hand():
    """Means 2 and 3: the first response is centred by 3, the second by 2."""
    rewards, mask = padded([[1.0, 2.0, 3.0], [4.0, 0.0, 5.0]])
    groups = torch.tensor([1, 1])
    assert process_advantages(rewards, mask, groups).tolist() == [[-3.0, -1.0, 0.0], [3.0, 1.0, 3.0]]
    discounted = process_advantages(rewards, mask, groups, gamma=0.5)
    assert discounted.tolist() == [[-2.5, -1.0, 0.0], [1.75, -0.5, 3.0]]
    own = process_advantages(rewards, mask, groups, baseline="group_mean")
    assert own.tolist() == [[-1.5, 0.0, 0.5], [1.5, 0.0, 2.5]]


def test_a_short_response_has_the_weight_of_a_long_one_in_the_baseline():
    rewards, mask = padded([[6.0], [1.0, 2.0], [0.0, 0.0, 3.0]])
    found = process_advantages(rewards, mask, torch.zeros(3, dtype=torch.long))
    # Means 6, 1.5 and 1; those of the others 1.25, 3.5 and 3.75.
    assert found.tolist() == [[4.75, 0.0, 0.0], [-4.0, -1.5, 0.0], [-8.25, -4.5, -0.75]]


def test_steps_as_units():
    """Step rewards (3, 3) and (4, 5): means 3 and 4.5. Every token of a step has the return of the step."""
    rewards, mask = padded([[1.0, 2.0, 3.0], [4.0, 0.0, 5.0]])
    steps = torch.tensor([[0, 0, 1], [0, 1, 1]])
    found = process_advantages(rewards, mask, torch.tensor([1, 1]), steps)
    assert found.tolist() == [[-3.0, -3.0, -1.5], [3.0, 2.0, 2.0]]


def test_the_lowest_reward_to_come():
    """Lowest to come (1, 2, 3) and (0, 0, 5): means 2 and 5/3."""
    rewards, mask = padded([[1.0, 2.0, 3.0], [4.0, 0.0, 5.0]])
    found = process_advantages(rewards, mask, torch.tensor([1, 1]), credit="min")
    expected = torch.tensor([[1 - 5 / 3, 2 - 5 / 3, 3 - 5 / 3], [-2.0, -2.0, 3.0]])
    torch.testing.assert_close(found, expected)


def test_a_response_without_tokens_or_without_others():
    rewards, mask = padded([[1.0, 2.0], [3.0], [], [5.0]])
    groups = torch.tensor([0, 0, 0, 1])
    found = process_advantages(rewards, mask, groups)
    assert found.tolist() == [[-3.0, -1.0], [1.5, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_scales():
    values, mask = padded([[2.0, -4.0], [1.0], [3.0, 5.0]])
    groups = torch.tensor([0, 0, 1])
    assert torch.equal(scaled(values, values, mask, groups), values)
    batch = torch.tensor([2.0, -4.0, 1.0, 3.0, 5.0]).std()
    torch.testing.assert_close(scaled(values, values, mask, groups, "batch_std"), values / (batch + 1e-4))
    first, second = torch.tensor([2.0, -4.0, 1.0]).std() + 1e-4, torch.tensor([3.0, 5.0]).std() + 1e-4
    expected = values / torch.stack([first, first, second])[:, None]
    torch.testing.assert_close(scaled(values, values, mask, groups, "group_std"), expected)


def test_the_largest_return_of_the_batch_has_no_baseline():
    """As in PRIME's code: the largest of |2|, |-5|, |12| and |5|, the sums of rewards from a token on."""
    rewards, mask = padded([[7.0, -5.0], [7.0, 5.0]])
    rewards = torch.nn.functional.pad(rewards, (0, 1), value=100.0)  # padding does not count
    mask, groups = torch.nn.functional.pad(mask, (0, 1)), torch.tensor([0, 0])
    process = process_advantages(rewards, mask, groups)
    torch.testing.assert_close(scaled(process, rewards, mask, groups, "batch_max"), process / 12)
    rounding = torch.full((2, 3), 1e-9)
    assert scaled(rounding, rounding, mask, groups, "batch_max").abs().max() < 0.01
    assert scaled(torch.zeros(2, 3), torch.zeros(2, 3), mask, groups, "batch_max").abs().max() == 0


def test_the_outcome_is_at_every_token_undiscounted():
    process, mask = padded([[1.0, -1.0], [2.0]])
    found = combined(process, torch.tensor([0.5, -0.5]), mask, coef=0.1)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.4], [-0.3, 0.0]]))


def test_whitening_over_the_tokens_of_the_batch():
    process, mask = padded([[1.0, -1.0], [2.0]])
    found = combined(process, torch.tensor([0.5, -0.5]), mask, whiten=True)
    plain = combined(process, torch.tensor([0.5, -0.5]), mask)[mask]
    torch.testing.assert_close(found[mask], (plain - plain.mean()) / (plain.std() + 1e-4))
    assert found[1, 1] == 0


def test_only_the_ratio_of_the_coefficients_matters_after_whitening():
    process, mask = padded([[1.0, -1.0], [2.0]])
    outcome = torch.tensor([0.5, -0.5])
    once, five = (combined(k * process, k * outcome, mask, whiten=True) for k in (1, 5))
    torch.testing.assert_close(once, five, atol=1e-3, rtol=0)


def test_prompts_by_accuracy():
    outcomes, groups = torch.tensor([1.0, 0.0, 1.0, 1.0, NAN, 0.0]), torch.tensor([0, 0, 1, 1, 0, 2])
    assert in_accuracy_range(outcomes, groups, 0.2, 0.8).tolist() == [True, True, False, False, True, False]


def batch(seed=0):
    """Ten responses to three prompts, some of them without tokens, without a grade or alone."""
    torch.manual_seed(seed)
    lengths = torch.tensor([3, 5, 1, 0, 4, 2, 5, 5, 1, 3])
    mask = torch.arange(5) < lengths[:, None]
    groups = torch.tensor([4, 9, 4, 9, 4, 9, 9, 4, 7, 9])
    steps = torch.rand(10, 5).gt(0.5).long().cumsum(1).masked_fill(~mask, 0)
    outcomes = torch.rand(10).round()
    outcomes[2] = NAN
    return torch.randn(10, 5).masked_fill(~mask, 0.0), mask, groups, steps, outcomes


def whole(rewards, mask, groups, steps, outcomes, units, credit, scale):
    process = process_advantages(rewards, mask, groups, steps if units == "step" else None, credit=credit)
    process = scaled(process, rewards, mask, groups, scale)
    return combined(process, outcome_advantages(outcomes, groups), mask, 0.3, whiten=True)


@pytest.mark.parametrize("scale", ["none", "group_std", "batch_std", "batch_max"])
@pytest.mark.parametrize("credit", ["sum", "min"])
@pytest.mark.parametrize("units", ["token", "step"])
def test_order_padding_and_names_of_groups_do_not_matter(units, credit, scale):
    """As if processes held other shares of the responses, and padded theirs to another length."""
    rewards, mask, groups, steps, outcomes = batch()
    expected = whole(rewards, mask, groups, steps, outcomes, units, credit, scale)
    assert expected.isfinite().all()
    order = torch.randperm(10)
    moved = [tensor[order] for tensor in (rewards, mask, groups * 1000 - 3, steps, outcomes)]
    torch.testing.assert_close(whole(*moved, units, credit, scale), expected[order])
    wider = [torch.nn.functional.pad(tensor, (0, 4)) for tensor in (rewards, mask, steps)]
    found = whole(wider[0], wider[1], groups, wider[2], outcomes, units, credit, scale)
    torch.testing.assert_close(found[:, :5], expected)
    assert found[:, 5:].abs().max() == 0


def test_shuffling_keeps_the_rewards_of_each_response():
    rewards, mask, groups, steps, _ = batch()
    generator = torch.Generator().manual_seed(0)
    kept = process_advantages(rewards, mask, groups)
    found = process_advantages(rewards, mask, groups, shuffle=generator)
    assert not torch.allclose(found, kept)
    torch.testing.assert_close(found[:, 0], kept[:, 0])  # the return of the first token is a sum over all of them
    by_step = process_advantages(rewards, mask, groups, steps, shuffle=generator)
    torch.testing.assert_close(by_step[:, 0], process_advantages(rewards, mask, groups, steps)[:, 0])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"credit": "mean"}, "credit='mean'"),
        ({"credit": "min", "gamma": 0.9}, "gamma=0.9"),
        ({"baseline": "none"}, "baseline='none'"),
    ],
)
def test_unknown_options_are_refused(options, named):
    rewards, mask, groups, *_ = batch()
    with pytest.raises(ImplicitPRMError, match=named):
        process_advantages(rewards, mask, groups, **options)
    with pytest.raises(ImplicitPRMError, match="scale='std'"):
        advantages.scaled(rewards, rewards, mask, groups, "std")


def test_values_by_hand():
    """Others: one of two correct, with a half added to each count: 0.5, so log-odds of 0. Then 2 of 2: 2.5 of 3."""
    rewards, mask = padded([[1.0, -3.0, 2.0], [0.5, 4.0], [0.0, 0.0, 0.0]])
    outcomes, groups = torch.tensor([0.0, 1.0, 1.0]), torch.zeros(3, dtype=torch.long)

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    odds = math.log(0.5 + 2) - math.log(0.5)
    first = [sigmoid(odds + before) for before in (0, 1, -2)]
    expected = [[2.5 / 3 - one for one in first], [0, 0.5 - sigmoid(0.5), 0], [0, 0, 0]]
    found = value_advantages(rewards, mask, groups, outcomes)
    torch.testing.assert_close(found, torch.tensor(expected))
    steps = torch.tensor([[0, 0, 1], [0, 1, 0], [0, 0, 0]])
    by_step = value_advantages(rewards, mask, groups, outcomes, steps)
    torch.testing.assert_close(by_step[0], torch.tensor([0, 0, 2.5 / 3 - first[2]]))


def test_advantage_estimation_with_lambda_by_hand():
    rewards, mask = padded([[1.0, -3.0, 2.0], [0.5, 4.0]])
    outcomes, groups = torch.tensor([0.0, 1.0]), torch.zeros(2, dtype=torch.long)
    odds = (math.log(3), -math.log(3))  # one of one correct is 1.5 of 2, none of one 0.5 of 2
    values = [torch.tensor([0.0, 1.0, -2.0]).add(odds[0]).sigmoid(), torch.tensor([0.0, 0.5]).add(odds[1]).sigmoid()]
    after = [torch.cat([values[0][1:], outcomes[:1]]), torch.cat([values[1][1:], outcomes[1:]])]
    first, second = (one - value for one, value in zip(after, values, strict=True))
    own = outcomes - torch.tensor([0.75, 0.25])
    none = value_advantages(rewards, mask, groups, outcomes, gae_lambda=0.0)
    torch.testing.assert_close(none[0], first - own[0])
    torch.testing.assert_close(none[1, :2], second - own[1])
    half = value_advantages(rewards, mask, groups, outcomes, gae_lambda=0.5)
    expected = torch.stack([first[0] + first[1] / 2 + first[2] / 4, first[1] + first[2] / 2, first[2]])
    torch.testing.assert_close(half[0], expected - own[0])
    # Steps 0 and 2; a step without tokens is no step.
    steps = torch.tensor([[0, 2, 2], [0, 0, 0]])
    gap = value_advantages(rewards, mask, groups, outcomes, steps, gae_lambda=0.5)
    no_gap = value_advantages(rewards, mask, groups, outcomes, steps.clamp(max=1), gae_lambda=0.5)
    torch.testing.assert_close(gap, no_gap)


def test_a_value_does_not_depend_on_what_follows_or_on_the_own_outcome():
    """Then it changes no expected gradient, however wrong it is."""
    generator = torch.Generator().manual_seed(0)
    rewards, mask = torch.randn(6, 5, generator=generator), torch.ones(6, 5, dtype=torch.bool)
    groups, outcomes = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    found = value_advantages(rewards, mask, groups, outcomes)
    changed, other = rewards.clone(), outcomes.clone()
    changed[0, 3:], other[0] = 7.0, 0.0
    again = value_advantages(changed, mask, groups, other)
    torch.testing.assert_close(again[0, :4], found[0, :4])
    assert abs(again[0, 4] - found[0, 4]) > 0.01
    assert (again[1] - found[1])[1:].abs().min() > 0.01  # whose baseline is the outcome that changed
    torch.testing.assert_close(again[3:], found[3:])


def test_a_prm_without_information_leaves_outcomes_as_they_are():
    nothing, mask = torch.zeros(3, 4), torch.ones(3, 4, dtype=torch.bool)
    outcomes, groups = torch.tensor([1.0, 0.0, 1.0]), torch.zeros(3, dtype=torch.long)
    assert not value_advantages(nothing, mask, groups, outcomes).any()


def test_values_of_responses_that_are_not_graded_or_alone():
    rewards, mask = torch.ones(3, 2), torch.ones(3, 2, dtype=torch.bool)
    outcomes, groups = torch.tensor([1.0, NAN, 1.0]), torch.tensor([0, 0, 1])
    assert not value_advantages(rewards, mask, groups, outcomes).any()
