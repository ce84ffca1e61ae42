"""Log-ratios to rewards by hand, and Proposition 3.1 of arXiv 2412.01981 by enumeration."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from implicit_prm.rewards import implicit_reward
from implicit_prm.types import ImplicitPRMError, StepScores, StepSpan


def _scores(steps, kind="log_ratio"):
    prefixes = None if kind == "probability" else list(itertools.accumulate(steps))
    return StepScores("", [StepSpan(0, 0)] * len(steps), list(steps), prefixes, kind)


def test_two_tokens_by_hand():
    policy, reference = torch.tensor([[-1.0, -2.0, -9.0]]), torch.tensor([[-1.5, -1.0, -3.0]])
    mask = torch.tensor([[True, True, False]])
    ratio = implicit_reward.token_log_ratio(policy, reference, mask)
    assert ratio.tolist() == [[0.5, -1.0, 0.0]]
    rewards = implicit_reward.token_rewards(ratio, beta=0.1)
    torch.testing.assert_close(implicit_reward.prefix_values(rewards), torch.tensor([[0.05, -0.05, -0.05]]))
    torch.testing.assert_close(implicit_reward.outcome_rewards(rewards), torch.tensor([-0.05]))


def test_without_a_reference_the_ratio_is_the_log_likelihood():
    policy, mask = torch.tensor([[-1.0, -2.0]]), torch.tensor([[True, True]])
    assert implicit_reward.token_log_ratio(policy, None, mask).tolist() == [[-1.0, -2.0]]


def test_step_rewards_telescope_to_the_outcome():
    rewards, steps = torch.tensor([0.5, -0.25, 1.0, 0.125]), torch.tensor([0, 0, 2, 2])
    values, prefixes = implicit_reward.step_rewards(rewards, steps, 3)
    assert values.tolist() == [0.25, 0.0, 1.125]  # the middle step owns no token
    assert prefixes.tolist() == [0.25, 0.25, 1.375]
    assert values.sum() == rewards.sum()


@pytest.mark.parametrize("beta", [0.05, 0.5, 2.0])
def test_proposition_3_1_on_an_enumerable_language_model(beta):
    """q_t = beta * log E_ref[exp(r / beta) | y_<=t], for every prefix of every sequence of 3 tokens out of 4."""
    vocabulary, length = 4, 3
    prefixes = [p for size in range(length) for p in itertools.product(range(vocabulary), repeat=size)]
    generator = torch.Generator().manual_seed(1)

    def language_model():  # prefix -> next-token log-probabilities
        draw = torch.randn(len(prefixes), vocabulary, generator=generator, dtype=torch.float64)
        return dict(zip(prefixes, draw.log_softmax(-1), strict=True))

    policy, reference = language_model(), language_model()

    def logprobs(model, sequence):
        return torch.stack([model[sequence[:t]][token] for t, token in enumerate(sequence)])

    def rewards(sequence):
        ratio = logprobs(policy, sequence) - logprobs(reference, sequence)
        return implicit_reward.token_rewards(ratio, beta)

    for prefix in prefixes[1:] + list(itertools.product(range(vocabulary), repeat=length)):
        rest = itertools.product(range(vocabulary), repeat=length - len(prefix))
        terms = [
            logprobs(reference, prefix + tail)[len(prefix) :].sum()
            + implicit_reward.outcome_rewards(rewards(prefix + tail)) / beta
            for tail in rest
        ]
        by_enumeration = beta * torch.logsumexp(torch.stack(terms), 0)
        torch.testing.assert_close(implicit_reward.prefix_values(rewards(prefix))[-1], by_enumeration)


@pytest.mark.parametrize(
    ("how", "over", "expected"),
    [
        ("min", "step", -1.0),
        ("max", "step", 0.5),
        ("last", "step", 0.25),
        ("mean", "step", -0.25 / 3),
        ("sum", "step", -0.25),
        ("min", "prefix", -0.5),
        ("max", "prefix", 0.5),
        ("last", "prefix", -0.25),
        ("mean", "prefix", -0.25 / 3),
        ("sum", "prefix", -0.25),
        ("product", "step", math.prod(1 / (1 + math.exp(-v)) for v in (0.5, -1.0, 0.25))),
    ],
)
def test_aggregates_by_hand(how, over, expected):
    assert implicit_reward.aggregate(_scores([0.5, -1.0, 0.25]), how, over) == pytest.approx(expected)


def test_means_of_steps_by_hand():
    """A long step is not low for its length alone; one without a token has reward 0, and mean 0."""
    scores = replace(_scores([-0.5, -1.0, 0.0]), step_tokens=[1, 4, 0])
    assert implicit_reward.step_values(scores, "step_mean") == [-0.5, -0.25, 0.0]
    assert (implicit_reward.aggregate(scores, "min"), implicit_reward.aggregate(scores, "min", "step_mean")) == (
        -1.0,
        -0.5,
    )
    assert implicit_reward.aggregate(scores, "mean", "step_mean") == pytest.approx(-0.25)
    halves = replace(_scores([math.log(9)]), step_tokens=[2])
    assert implicit_reward.aggregate(halves, "product", "step_mean") == pytest.approx(3 / 4)  # sigmoid(log 3)
    assert implicit_reward.aggregate(replace(_scores([]), step_tokens=[]), "min", "step_mean") == -math.inf


def test_step_sums_of_several_responses_are_those_of_each():
    rewards = torch.tensor([[0.5, -0.25, 1.0, 0.125], [1.0, 2.0, 0.0, 0.0]], requires_grad=True)
    steps = torch.tensor([[0, 0, 2, 2], [0, 1, 0, 0]])
    summed = implicit_reward.step_sums(rewards, steps, 3)
    assert summed.tolist() == [[0.25, 0.0, 1.125], [1.0, 2.0, 0.0]]
    summed[0, 2].backward()
    assert rewards.grad.tolist() == [[0.0, 0.0, 1.0, 1.0], [0.0] * 4]


def test_a_product_of_probabilities_is_of_the_probabilities():
    assert implicit_reward.aggregate(_scores([0.5, 0.5], "probability"), "product") == 0.25


@pytest.mark.parametrize("how", implicit_reward.AGGREGATES)
def test_a_response_without_steps_cannot_win(how):
    assert implicit_reward.aggregate(_scores([]), how) == -math.inf


def test_unsound_aggregates_are_refused():
    with pytest.raises(ImplicitPRMError, match="no prefix values"):
        implicit_reward.aggregate(_scores([0.5], "probability"), "min", "prefix")
    with pytest.raises(ImplicitPRMError, match="token counts"):
        implicit_reward.aggregate(_scores([0.5]), "min", "step_mean")
    with pytest.raises(ImplicitPRMError, match="choose one of"):
        implicit_reward.aggregate(_scores([0.5]), "median")
    with pytest.raises(ImplicitPRMError, match="choose one of"):
        implicit_reward.aggregate(_scores([0.5]), "min", "token")


def test_sigmoid_does_not_overflow():
    assert [implicit_reward.sigmoid(v) for v in (-math.inf, -1e4, 0.0, 1e4)] == [0.0, 0.0, 0.5, 1.0]
