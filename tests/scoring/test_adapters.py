"""Scorers behind the interfaces of other search libraries, with the libraries themselves where they are installed."""

import asyncio
import math

import pytest

from implicit_prm import ImplicitPRM, ImplicitPRMError, StepScores
from implicit_prm.scoring.adapters import ItsHubPRM, RewardHubPRM, SearchAndLearnPRM

GOOD, BAD = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))


class Lines:
    """Two for a line that says good, minus two for any other; counts its calls."""

    def __init__(self, kind="log_ratio"):
        self.kind, self.prompts = kind, []

    def score(self, problem, responses, finished):
        assert not any(finished)
        self.prompts.append(problem)
        values = [[2.0 if "good" in line else -2.0 for line in text.split("\n")] if text else [] for text in responses]
        if self.kind == "probability":
            values = [[float(value > 0) for value in one] for one in values]
        return [StepScores(text, [], one, kind=self.kind) for text, one in zip(responses, values, strict=True)]


TEXTS = ["good", "good\nbad", "good\ngood", ""]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [GOOD, BAD, GOOD, 0.0]),
        ({"aggregate": "product"}, [GOOD, GOOD * BAD, GOOD**2, 0.0]),
        ({"aggregate": "mean"}, [GOOD, 0.5, GOOD, 0.0]),
        ({"aggregate": "last", "over": "prefix"}, [GOOD, 0.5, 1 / (1 + math.exp(-4)), 0.0]),
    ],
)
def test_its_hub_gets_one_number_a_response(options, expected):
    prm = ItsHubPRM(Lines(), **options)
    assert prm.score("?", TEXTS) == pytest.approx(expected)
    assert asyncio.run(prm.ascore([{"role": "user", "content": "?"}], TEXTS)) == pytest.approx(expected)


def test_probabilities_stay_as_they_are():
    assert ItsHubPRM(Lines("probability")).score("?", TEXTS) == [1.0, 0.0, 1.0, 0.0]


def test_an_aggregate_outside_the_unit_interval_is_refused():
    with pytest.raises(ImplicitPRMError, match="aggregate=sum"):
        ItsHubPRM(Lines(), aggregate="sum")


def test_search_and_learn_gets_the_steps_and_beams_share_their_prompt():
    scorer = Lines()
    scored = SearchAndLearnPRM(scorer).score(["a", "a", "b"], [["good"], ["good\nbad"], ["bad", ""]])
    assert scored == [[[GOOD]], [pytest.approx([GOOD, BAD])], [[BAD], [0.0]]]
    assert scorer.prompts == ["a", "b"]


def test_reward_hub_gets_conversations():
    scorer = Lines()
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    ends = [{"role": "assistant", "content": text} for text in TEXTS[:3]]
    prm = RewardHubPRM(scorer)
    assert prm.score([[*chat[1:], end] for end in ends]) == pytest.approx([GOOD, BAD, GOOD])
    assert prm.score([*chat, ends[2]], aggregation_method="prod") == pytest.approx([GOOD**2])
    assert scorer.prompts == ["a", chat]
    with pytest.raises(ImplicitPRMError, match="aggregation_method=model"):
        prm.score([*chat, ends[0]], aggregation_method="model")


def test_reward_hubs_own_results():
    base = pytest.importorskip("reward_hub.base")
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "good\nbad"}]
    method = base.AggregationMethod.MIN
    [full] = RewardHubPRM(Lines()).score(messages, aggregation_method=method, return_full_prm_result=True)
    assert isinstance(full, base.PRMResult)
    assert full.step_scores == pytest.approx([GOOD, BAD])
    assert [full.score] == RewardHubPRM(Lines()).score(messages, aggregation_method=method)


class Generator:
    """A language model of its_hub whose steps are bad and good by turns."""

    def __init__(self):
        self.steps = 0

    async def agenerate(self, conversations, **_):
        replies = []
        for _ in conversations:
            self.steps += 1
            replies.append({"role": "assistant", "content": "good" if self.steps % 2 == 0 else "bad"})
        return replies


@pytest.mark.parametrize("method", ["beam search", "particle filtering"])
def test_its_hubs_searches_prefer_good_steps(method):
    pytest.importorskip("its_hub")
    from its_hub.core.algorithms.beam_search import BeamSearch
    from its_hub.core.algorithms.particle_gibbs import ParticleFiltering
    from its_hub.core.lms.step_generation import StepGeneration

    steps = StepGeneration(max_steps=4, step_token="\n")
    prm = ItsHubPRM(Lines())
    search = BeamSearch(steps, prm, beam_width=4) if method == "beam search" else ParticleFiltering(steps, prm)
    best = asyncio.run(search.ainfer(Generator(), "?", 16))
    assert set(best["content"].split("\n")) == {"good"}


def test_an_implicit_prm_as_a_search_model(tiny_folder):
    prm = ImplicitPRM.from_pretrained(tiny_folder, reference="none", beta=1.0, steps="newline", device="cpu")
    problem, partial = "Modulo 50, left to right: 12 + 7 * 3", "12 + 7 = 19\n19 * 3 = 7"
    [[values]] = SearchAndLearnPRM(prm).score([problem], [[partial]])
    rewards = prm.score(problem, [partial], finished=[False])[0].step_rewards
    assert values == pytest.approx([1 / (1 + math.exp(-reward)) for reward in rewards])
