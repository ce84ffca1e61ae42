"""The losses by hand, by the sign of their gradients, and at the edges.

Rewards are logarithms of small whole numbers, so that every sigmoid is a fraction: sigmoid(log a) = a / (1 + a), and
sigmoid(-log a) = 1 / (1 + a).
"""

import math

import pytest
import torch

from implicit_prm.config import CEConfig, DPOConfig, KTOConfig, NCAConfig, PrefixConfig, StepsConfig
from implicit_prm.rewards.losses import (
    LOSSES,
    LossInputs,
    accuracy_offset,
    ce,
    dpo,
    kl_baselines,
    kto,
    nca,
    pairs,
    prefix,
    rare_class_weight,
    steps,
    unit_count,
)

CONFIGS = {
    "dpo": DPOConfig(),
    "dpo one_to_one": DPOConfig(pairing="one_to_one"),
    "nca pair": NCAConfig(),
    "nca one_to_one": NCAConfig(pairing="one_to_one"),
    "nca group": NCAConfig(form="group"),
    "kto unpaired": KTOConfig(),
    "kto paired": KTOConfig(form="paired"),
    "kto weighted": KTOConfig(desirable_weight=1.5, undesirable_weight=0.5),
    "ce": CEConfig(),
    "ce group_mean": CEConfig(offset="group_mean"),
    "ce prompt_accuracy": CEConfig(offset="prompt_accuracy"),
    "prefix": PrefixConfig(),
    "steps": StepsConfig(),
}
every_loss = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def _inputs(rewards, labels, groups=None, kl=(0.0, 0.0)):
    """Every response has one step of two tokens, a quarter of its reward on the first, labelled as the response is."""
    groups = [0] * len(rewards) if groups is None else groups
    leaf = torch.tensor(rewards, dtype=torch.float32, requires_grad=True)
    tokens = leaf[:, None] * torch.tensor([0.25, 0.75])
    told = torch.tensor(labels, dtype=torch.bool)
    mask, step_labels = torch.ones_like(tokens, dtype=torch.bool), told.float()[:, None]
    return LossInputs(
        leaf, told, torch.tensor(groups), torch.tensor(kl), tokens, mask, torch.zeros_like(tokens).long(), step_labels
    )


def _tokens(rows, labels, steps=None, step_labels=None):
    """Responses of several tokens; None is where there is none. The leaf is `token_rewards`."""
    mask = torch.tensor([[token is not None for token in row] for row in rows])
    leaf = torch.tensor([[token or 0.0 for token in row] for row in rows], requires_grad=True)
    told = torch.tensor(labels, dtype=torch.bool)
    return LossInputs(
        leaf.sum(-1),
        told,
        torch.zeros_like(told, dtype=torch.long),
        None,
        leaf,
        mask,
        None if steps is None else torch.tensor(steps),
        None if step_labels is None else torch.tensor(step_labels, dtype=torch.float32),
    )


def _gradient(inputs, config):
    output = LOSSES[config.name](inputs, config)
    return torch.autograd.grad(output.total, inputs.rewards)[0]


def _check(output, total, units):
    assert output.total.item() == pytest.approx(total, abs=1e-6)
    assert output.units == units


def _pairs(labels, groups, pairing="all"):
    chosen, rejected = pairs(torch.tensor(labels, dtype=torch.bool), torch.tensor(groups), pairing)
    return list(zip(chosen.tolist(), rejected.tolist(), strict=True))


def test_all_pairs_are_the_cross_product_within_each_prompt():
    # prompt 7 has two correct and two incorrect responses, prompt 2 one of each, prompt 5 only correct ones
    labels, groups = [1, 0, 1, 0, 0, 1, 1, 1], [7, 7, 7, 7, 2, 2, 5, 5]
    assert _pairs(labels, groups) == [(0, 1), (0, 3), (2, 1), (2, 3), (5, 4)]


def test_one_to_one_pairs_are_the_first_with_the_first_and_so_on():
    labels, groups = [1, 0, 1, 0, 0, 1, 1, 1], [7, 7, 7, 7, 2, 2, 5, 5]
    assert _pairs(labels, groups, "one_to_one") == [(0, 1), (2, 3), (5, 4)]
    # three incorrect and one correct: the surplus stays alone, whatever the order
    assert _pairs([0, 0, 1, 0], [0, 0, 0, 0], "one_to_one") == [(2, 0)]


def test_pairs_of_prompts_whose_responses_are_interleaved():
    labels, groups = [1, 1, 0, 0, 0, 1], [0, 1, 0, 1, 0, 1]
    assert _pairs(labels, groups) == [(0, 2), (0, 4), (1, 3), (5, 3)]
    assert _pairs(labels, groups, "one_to_one") == [(0, 2), (1, 3)]


def test_dpo_by_hand():
    # correct log 3; incorrect 0 and -log 3. Margins log 3 and log 9: -log 3/4 - log 9/10 = log 4/3 + log 10/9
    inputs = _inputs([math.log(3), 0.0, -math.log(3)], [1, 0, 0])
    _check(dpo(inputs, DPOConfig()), math.log(4 / 3) + math.log(10 / 9), 2)
    _check(dpo(inputs, DPOConfig(pairing="one_to_one")), math.log(4 / 3), 1)


def test_dpo_never_pairs_across_prompts():
    # prompt 0: log 3 against 0; prompt 1: 0 against log 2, margin -log 2: -log 1/3 = log 3
    inputs = _inputs([math.log(3), 0.0, math.log(2), 0.0], [1, 0, 0, 1], [0, 0, 1, 1])
    _check(dpo(inputs, DPOConfig()), math.log(4 / 3) + math.log(3), 2)


def test_nca_pair_by_hand():
    # r_w = log 3: -log 3/4 - 1/2 log 1/4 = log 4/3 + log 2.
    # r_l = 0: -1/2 log 1/2 = 1/2 log 2.   r_l = -log 2: -1/2 log sigmoid(log 2) = 1/2 log 3/2.
    winner = math.log(4 / 3) + math.log(2)
    inputs = _inputs([math.log(3), 0.0, -math.log(2)], [1, 0, 0])
    _check(nca(inputs, NCAConfig()), 2 * winner + math.log(2) / 2 + math.log(3 / 2) / 2, 2)
    _check(nca(inputs, NCAConfig(pairing="one_to_one")), winner + math.log(2) / 2, 1)


def test_nca_group_by_hand():
    # K = 4, two correct, so w = 1/2 on r = log 3 and r = log 2; incorrect 0 and -log 3.
    # pull: 1/2 log 4/3 + 1/2 log 3/2. push, 1/4 each: log 4 + log 3 + log 2 + log 4/3.
    pull = (math.log(4 / 3) + math.log(3 / 2)) / 2
    push = (math.log(4) + math.log(3) + math.log(2) + math.log(4 / 3)) / 4
    inputs = _inputs([math.log(3), 0.0, math.log(2), -math.log(3)], [1, 0, 1, 0])
    _check(nca(inputs, NCAConfig(form="group")), pull + push, 1)
    # a second prompt of other size counts as much; one without incorrect responses does not count
    # prompt 1: correct 0 and incorrect 0: log 2 + 1/2 log 2 + 1/2 log 2 = 2 log 2
    inputs = _inputs(
        [math.log(3), 0.0, math.log(2), -math.log(3), 0.0, 0.0, 5.0], [1, 0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 2]
    )
    _check(nca(inputs, NCAConfig(form="group")), pull + push + 2 * math.log(2), 2)


@pytest.mark.parametrize("rejected", [-30.0, -0.7, 0.0, 2.5, 30.0])
@pytest.mark.parametrize("chosen", [-30.0, -1.3, 0.0, 0.4, 30.0])
def test_nca_group_is_nca_pair_for_one_response_of_each_kind(chosen, rejected):
    outputs = [nca(_inputs([rejected, chosen], [0, 1]), NCAConfig(form=form)) for form in ("pair", "group")]
    torch.testing.assert_close(outputs[0].total, outputs[1].total)
    assert outputs[0].units == outputs[1].units == 1


def test_nca_pair_has_its_minimum_over_the_correct_reward_at_sigmoid_two_thirds():
    lowest = math.log(2)  # sigmoid(log 2) = 2/3
    for offset, sign in ((-0.5, -1), (0.0, 0), (0.5, 1)):
        gradient = _gradient(_inputs([lowest + offset, 0.0], [1, 0]), NCAConfig())[0].item()
        assert (gradient > 1e-6) - (gradient < -1e-6) == sign


def test_kto_unpaired_by_hand():
    # z = log 2 for desirable, log 3 for undesirable. Desirable r = log 6: 1 - sigmoid(log 6 - log 2) = 1 - 3/4 = 1/4,
    # and r = 0: 1 - sigmoid(-log 2) = 2/3. Undesirable r = 0: 1 - sigmoid(log 3) = 1/4.
    inputs = _inputs([math.log(6), 0.0, 0.0], [1, 1, 0], [0, 1, 1], kl=(math.log(2), math.log(3)))
    _check(kto(inputs, KTOConfig()), 1 / 4 + 2 / 3 + 1 / 4, 3)
    config = KTOConfig(desirable_weight=3.0, undesirable_weight=0.5)
    _check(kto(inputs, config), 3 * (1 / 4 + 2 / 3) + 1 / 8, 3)


def test_kto_paired_leaves_out_prompts_of_one_kind():
    # prompt 0 has both kinds: 1 - sigmoid(log 3 - 0) = 1/4 and 1 - sigmoid(log 2 - 0) = 1/3; prompt 1 has one kind
    inputs = _inputs([math.log(3), 0.0, 9.0], [1, 0, 1], [0, 0, 1], kl=(0.0, math.log(2)))
    _check(kto(inputs, KTOConfig(form="paired")), 1 / 4 + 1 / 3, 2)
    assert _gradient(inputs, KTOConfig(form="paired"))[2] == 0


def test_kto_needs_its_baselines_and_never_sends_a_gradient_into_them():
    inputs = _inputs([1.0, 0.0], [1, 0])
    inputs.kl = None
    with pytest.raises(ValueError, match=r"needs inputs\.kl"):
        kto(inputs, KTOConfig())
    inputs.kl = torch.tensor([0.5, 0.5], requires_grad=True)
    kto(inputs, KTOConfig()).total.backward()
    assert inputs.kl.grad is None
    assert inputs.rewards.grad is not None


def test_kl_baselines_are_clamped_means():
    sums = torch.tensor([3.0, -8.0], requires_grad=True)
    baselines = kl_baselines(sums, torch.tensor([2.0, 4.0]))
    assert baselines.tolist() == [1.5, 0.0]
    assert not baselines.requires_grad


def test_kl_baselines_of_nothing_are_zero():
    assert kl_baselines(torch.zeros(2), torch.zeros(2)).tolist() == [0.0, 0.0]
    assert kl_baselines(torch.tensor([0.0, 6.0]), torch.tensor([0.0, 3.0])).tolist() == [0.0, 2.0]


def test_ce_by_hand():
    # correct log 3: -log 3/4; incorrect log 3: -log 1/4; incorrect -log 2: -log sigmoid(log 2) = -log 2/3
    inputs = _inputs([math.log(3), math.log(3), -math.log(2)], [1, 0, 0], [0, 0, 1])
    _check(ce(inputs, CEConfig()), math.log(4 / 3) + math.log(4) + math.log(3 / 2), 3)


def test_ce_held_against_the_mean_of_the_group_by_hand():
    # mean 7: logits log 3 and -log 3, right and wrong: log 4/3 twice; held against 7, wrong and right: log 4 twice
    inputs = _inputs([7 + math.log(3), 7 - math.log(3)], [1, 0])
    _check(ce(inputs, CEConfig(offset="group_mean")), 2 * math.log(4 / 3), 2)
    # a prompt with one kind is left out; the mean of the other is its own
    inputs = _inputs([7 + math.log(3), 50.0, 7 - math.log(3), 90.0], [0, 1, 1, 1], [0, 1, 0, 1])
    _check(ce(inputs, CEConfig(offset="group_mean")), 2 * math.log(4), 2)
    assert _gradient(inputs, CEConfig(offset="group_mean"))[[1, 3]].tolist() == [0.0, 0.0]


def test_the_mean_carries_a_gradient_so_that_a_shift_of_a_group_changes_nothing():
    """Detached, it would push this group, of which a quarter is correct, down by 1 without ever seeing it go."""
    config = CEConfig(offset="group_mean")
    level = _gradient(_inputs([0.0] * 4, [1, 0, 0, 0]), config)
    torch.testing.assert_close(level, torch.tensor([-0.75, 0.25, 0.25, 0.25]))
    rewards, labels = [0.3, -1.2, 2.0, 0.1], [1, 0, 0, 1]
    here, there = (_inputs([r + shift for r in rewards], labels) for shift in (0.0, -30.0))
    assert ce(here, config).total.item() == pytest.approx(ce(there, config).total.item(), abs=1e-5)
    assert _gradient(here, config).sum().item() == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(_gradient(here, config), _gradient(there, config), atol=1e-5, rtol=1e-4)


def test_ce_shifted_by_the_accuracy_of_the_prompt_by_hand():
    config = CEConfig(offset="prompt_accuracy")
    # One of four correct: log-odds -log 3. Correct log 6: logit log 2, loss log 3/2. Incorrect 0: logit -log 3, log 4/3
    _check(ce(_inputs([math.log(6), 0.0, 0.0, 0.0], [1, 0, 0, 0]), config), math.log(3 / 2) + 3 * math.log(4 / 3), 4)
    level = _gradient(_inputs([0.0] * 4, [1, 0, 0, 0]), config)
    torch.testing.assert_close(level, torch.tensor([-0.75, 0.25, 0.25, 0.25]))
    # Both of two correct: three quarters, half a response from 1, not certainty: log 4/3 each at reward 0. One response
    # by itself says nothing of its prompt: log 2.
    inputs = _inputs([0.0, 0.0, 0.0], [1, 1, 0], [0, 0, 1])
    _check(ce(inputs, config), 2 * math.log(4 / 3) + math.log(2), 3)


def test_a_given_offset_and_weight_count_as_those_of_the_whole_prompt():
    """A part of a prompt's responses, with the offset of all of them, has the loss that they have in the whole."""
    rewards, labels = [math.log(6), 0.0, 0.0, 0.0], [1, 0, 0, 0]
    whole = _inputs(rewards, labels)
    part = _inputs(rewards[:2], labels[:2])
    part.offset, part.weight = accuracy_offset(whole.labels, whole.groups)[:2], torch.tensor([3.0, 0.5])
    _check(ce(part, CEConfig()), 3 * math.log(3 / 2) + 0.5 * math.log(4 / 3), 2)
    # prefix: v = 2 log 2, log 2 with the offset log 2 is log 8, log 4; margin log 2: log 5/4 + log 3/2 = log 15/8.
    inputs = _tokens([[math.log(4), 0.0]], [1])
    inputs.offset, inputs.weight = torch.tensor([math.log(2)]), torch.tensor([4.0])
    _check(prefix(inputs, PrefixConfig(margin=math.log(2))), 2 * math.log(15 / 8), 1)


def test_the_rarer_kind_of_response_weighs_more():
    labels, groups = torch.tensor([1, 0, 0, 0, 1, 1, 0], dtype=torch.bool), torch.tensor([0, 0, 0, 0, 1, 1, 2])
    expected = torch.tensor([2.0, 2 / 3, 2 / 3, 2 / 3, 0.0, 0.0, 0.0])
    torch.testing.assert_close(rare_class_weight(labels, groups), expected)


def test_prefix_by_hand():
    # q = log 4, log 4 and v = q / t = log 4, log 2; margin log 2.
    # Correct: -log sigmoid(log 2), -log sigmoid(0): log 3/2 + log 2 = log 3, the mean of two.
    # Incorrect: -log sigmoid(-log 8) = log 9 and -log sigmoid(-log 4) = log 5.
    row, config = [math.log(4), 0.0], PrefixConfig(margin=math.log(2))
    _check(prefix(_tokens([row], [1]), config), math.log(3) / 2, 1)
    _check(prefix(_tokens([row], [0]), config), math.log(45) / 2, 1)
    # A shorter response counts as much, and where its tokens stand does not matter: prompts before, padding behind.
    inputs = _tokens([[None, *row, None], [None, None, math.log(4), None]], [1, 0])
    _check(prefix(inputs, config), math.log(3) / 2 + math.log(9), 2)
    gradient = torch.autograd.grad(prefix(inputs, config).total, inputs.token_rewards)[0]
    assert (gradient[0] < 0).tolist() == [True, True, True, False]  # what stands before would move every prefix


def test_an_early_token_is_in_every_prefix_and_weighs_most():
    # margin 0 and rewards 0: each prefix pulls by 1/2, shared over t tokens; the mean over 3 prefixes
    inputs = _tokens([[0.0, 0.0, 0.0]], [1])
    gradient = torch.autograd.grad(prefix(inputs, PrefixConfig(margin=0.0)).total, inputs.token_rewards)[0]
    torch.testing.assert_close(gradient, -torch.tensor([[1 + 1 / 2 + 1 / 3, 1 / 2 + 1 / 3, 1 / 3]]) / 6)


def test_steps_by_hand():
    # step 0: log 3/2 + log 2 = log 3, sigmoid 3/4, label 1; step 1: 0, sigmoid 1/2, label 0; step 2 has no label
    # the other response: log 3, label 1/2; it has no other step, and padding behind its token
    nan = math.nan
    inputs = _tokens(
        [[math.log(3 / 2), math.log(2), 0.0, 9.0], [math.log(3), None, None, None]],
        [0, 1],
        [[0, 0, 1, 2], [0, 0, 0, 0]],
        [[1, 0, nan], [0.5, nan, nan]],
    )
    output = steps(inputs, StepsConfig())
    _check(output, 1 / 16 + 1 / 4 + 1 / 16, 3)
    output.total.backward()
    gradient = inputs.token_rewards.grad
    # 2 (sigmoid - label) sigmoid (1 - sigmoid): -3/32 and 1/4
    torch.testing.assert_close(gradient[0], torch.tensor([-3 / 32, -3 / 32, 1 / 4, 0.0]))
    assert gradient[1, 0] > 0  # above one half


def test_what_reads_tokens_asks_for_them():
    bare = LossInputs(torch.zeros(2), torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"prefix needs inputs\.token_rewards"):
        prefix(bare, PrefixConfig())
    with pytest.raises(ValueError, match=r"steps needs inputs\.token_rewards"):
        steps(bare, StepsConfig())


@every_loss
def test_gradients_pull_correct_rewards_up_and_push_incorrect_ones_down(config):
    # NCA holds every reward back from rising: its pull wins only below the minimum, where these correct rewards are
    inputs = _inputs([-1.0, -0.5, 0.3, 1.2, -2.0, 0.4], [1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1], kl=(0.1, 0.2))
    gradient = _gradient(inputs, config)
    assert (gradient[inputs.labels] <= 0).all()
    assert (gradient[~inputs.labels] >= 0).all()
    assert (gradient[inputs.labels] < 0).any()
    assert (gradient[~inputs.labels] > 0).any()


@every_loss
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_rewards_stay_finite(config, size):
    inputs = _inputs([size, -size, size, -size], [1, 1, 0, 0], kl=(abs(size), 0.0))
    output = LOSSES[config.name](inputs, config)
    output.total.backward()
    assert math.isfinite(output.total.item())
    assert inputs.rewards.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("label", [0, 1], ids=["no positives", "no negatives"])
def test_a_batch_of_one_kind_still_runs_backward(config, label):
    inputs = _inputs([0.5, -0.5], [label, label])
    output = LOSSES[config.name](inputs, config)
    output.total.backward()
    if config.needs_pairs:
        assert output.units == 0
        assert output.total.item() == 0
        assert inputs.rewards.grad.tolist() == [0.0, 0.0]
    else:
        assert output.units == 2
        assert (inputs.rewards.grad != 0).all()


@every_loss
def test_the_sum_over_split_batches_is_the_whole(config):
    generator = torch.Generator().manual_seed(3)
    rewards = torch.randn(14, generator=generator).tolist()
    labels = [1, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1]
    groups = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3]
    whole = _inputs(rewards, labels, groups, kl=(0.2, 0.4))
    expected, gradient = LOSSES[config.name](whole, config), _gradient(whole, config)
    total, units, gradients = 0.0, 0.0, []
    for part in (slice(0, 4), slice(4, 8), slice(8, 14)):
        inputs = _inputs(rewards[part], labels[part], groups[part], kl=(0.2, 0.4))
        output = LOSSES[config.name](inputs, config)
        total, units = total + output.total.item(), units + output.units
        gradients.append(_gradient(inputs, config))
    assert total == pytest.approx(expected.total.item(), rel=1e-5)
    assert units == expected.units > 0
    torch.testing.assert_close(torch.cat(gradients), gradient)


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("dpo", 4 + 1),  # 2 x 2 and 1 x 1 pairs
        ("dpo one_to_one", 2 + 1),
        ("nca pair", 4 + 1),
        ("nca one_to_one", 2 + 1),
        ("nca group", 2),  # prompts with both kinds
        ("kto unpaired", 8),  # responses
        ("kto paired", 6),  # responses of prompts with both kinds
        ("ce", 8),
        ("ce group_mean", 6),
        ("ce prompt_accuracy", 8),
        ("prefix", 8),
    ],
)
def test_units_are_known_from_the_labels_alone(name, units):
    labels, groups = torch.tensor([1, 0, 1, 0, 0, 1, 1, 1], dtype=torch.bool), torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    assert unit_count(labels, groups, CONFIGS[name]) == units


def test_units_of_steps_are_the_labelled_ones():
    labels, groups = torch.tensor([True, False]), torch.tensor([0, 0])
    step_labels = torch.tensor([[1.0, math.nan, 0.0], [0.5, math.nan, math.nan]])
    assert unit_count(labels, groups, StepsConfig(), step_labels) == 3
    assert unit_count(labels[:0], groups[:0], StepsConfig(), step_labels[:0]) == 0


@every_loss
def test_no_response_at_all_still_runs_backward(config):
    """What a process runs that got fewer pieces than the others."""
    leaf = torch.zeros(0, 2, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.long)
    mask, steps_of = torch.zeros(0, 2, dtype=torch.bool), torch.zeros(0, 2, dtype=torch.long)
    inputs = LossInputs(leaf.sum(-1), nothing.bool(), nothing, torch.zeros(2), leaf, mask, steps_of, torch.zeros(0, 1))
    output = LOSSES[config.name](inputs, config)
    assert (output.total.item(), output.units) == (0.0, 0.0)
    output.total.backward()
    assert leaf.grad.shape == (0, 2)
