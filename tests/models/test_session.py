"""A session's rewards are those of the whole responses, whoever computes the reference's log-probabilities."""

import random

import pytest

from implicit_prm import ImplicitPRM, ImplicitPRMError
from implicit_prm.config import TextConfig
from implicit_prm.models.checkpoint import ADAPTER_OFF, CheckpointMetadata
from tests.models.test_implicit_prm import PROBLEM, _lora

KINDS = ["two models", "adapter off", "no reference"]


@pytest.fixture(scope="module")
def prms(tiny_folder, other_folder, tokenizer):
    options = {"beta": 0.5, "steps": "newline", "device": "cpu"}
    metadata = CheckpointMetadata(0.5, ADAPTER_OFF, text=TextConfig(steps="newline"))
    return {
        "two models": ImplicitPRM.from_pretrained(other_folder, reference=str(tiny_folder), **options),
        "adapter off": ImplicitPRM(_lora(tokenizer), tokenizer, None, metadata),
        "no reference": ImplicitPRM.from_pretrained(other_folder, reference="none", **options),
    }


@pytest.fixture(params=KINDS)
def prm(prms, request):
    return prms[request.param]


def _search(prm, steps=4, given=lambda step: False):
    """A random search: the rewards of every extension, and those from scratch. Rows repeat, and some have ended."""
    rng, session, prompt = random.Random(1), prm.open(PROBLEM), prm.encoder.prompt_ids(PROBLEM)
    whole = [[]]
    for step in range(steps):
        parents = [rng.randrange(len(whole)) for _ in range(5)]
        new = [[rng.randrange(5, 30) for _ in range(rng.choice([0, 1, 4, 9]))] for _ in parents]
        whole = [[*whole[parent], *ids] for parent, ids in zip(parents, new, strict=True)]
        known = None
        if given(step):
            known = [
                values[len(values) - len(ids) :].tolist()
                for values, ids in zip(prm.reference_logprobs(prompt, whole), new, strict=True)
            ]
            if given(step) == "of some rows":
                known = [values if rng.random() < 0.5 else None for values in known]
        found = session.extend(new, parents, known)
        assert session.ids == whole
        yield session, found, [len(ids) for ids in new], prm.token_rewards(prompt, whole)


def _check(searched):
    for session, found, sizes, rewards in searched:
        assert len(session) == len(found) == len(rewards)
        for step, size, whole in zip(found, sizes, rewards, strict=True):
            assert step.token_rewards == pytest.approx(whole[len(whole) - size :].tolist(), abs=1e-5)
            assert step.step_reward == pytest.approx(sum(step.token_rewards), abs=1e-6)
            assert step.prefix_value == pytest.approx(whole.sum().item(), abs=1e-4)


def test_rewards_equal_those_of_whole_responses(prm):
    _check(_search(prm))


@pytest.mark.parametrize("kind", KINDS[:2])
def test_the_reference_does_not_run_if_its_log_probabilities_are_given(kind, prms, monkeypatch):
    prm = prms[kind]
    searched = _search(prm, given=lambda step: True)
    _check(searched)
    session = prm.open(PROBLEM)

    def fail(*_, **__):
        raise AssertionError("the reference ran")

    monkeypatch.setattr(prm.reference or prm.policy, "forward" if prm.reference else "disable_adapter", fail)
    session.extend([[5, 6], [7]], [0, 0], [[-1.0, -2.0], [-0.5]])
    assert session.tokens == len(prm.encoder.prompt_ids(PROBLEM)) + 3


@pytest.mark.parametrize("kind", KINDS[:2])
def test_given_log_probabilities_on_some_steps_only(kind, prms):
    """The reference reads later what it was not run on."""
    for odd in (0, 1):
        _check(_search(prms[kind], given=lambda step, odd=odd: step % 2 == odd))


@pytest.mark.parametrize("kind", KINDS[:2])
def test_given_log_probabilities_of_some_rows_only(kind, prms):
    _check(_search(prms[kind], steps=6, given=lambda step: "of some rows"))


@pytest.mark.parametrize("given", [True, False])
def test_next_token_rewards_are_those_of_an_extension(prm, given):
    given = given and prm.metadata.reference != "none"
    *_, (session, *_) = _search(prm, given=lambda step: given)
    tokens = [5, 17, 30]
    for row in (2, 0):
        rewards = session.next_token_rewards(row)
        assert rewards.shape == (prm.policy.config.vocab_size,)
        steps = session.extend([[token] for token in tokens], [row] * 3)
        assert [step.step_reward for step in steps] == pytest.approx(rewards[tokens].tolist(), abs=1e-5)
        whole = prm.token_rewards(prm.encoder.prompt_ids(PROBLEM), session.ids)
        assert [values[-1].item() for values in whole] == pytest.approx(rewards[tokens].tolist(), abs=1e-5)


def test_select_repeats_and_drops_rows(prms):
    session = prms["two models"].open(PROBLEM)
    session.extend([[5, 6], [7], [8, 9, 10]], [0, 0, 0])
    session.select([2, 0, 2])
    assert session.ids == [[8, 9, 10], [5, 6], [8, 9, 10]]
    first, other, second = session.extend([[11], [11], [11]])
    assert first == second != other
    assert session.extend([[], [], [12]])[0].token_rewards == []


def test_scorer_tokens_are_those_of_the_prompt_and_the_extensions(prms):
    prm = prms["two models"]
    session = prm.open(PROBLEM)
    session.extend([[5, 6], [7]], [0, 0])
    session.extend([[5, 6, 8]], [1])
    assert session.tokens == 2 * (len(prm.encoder.prompt_ids(PROBLEM)) + 6)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([[5]], [1]), "parents"),
        (([[5]], [-1]), "parents"),
        (([[5], [6]],), "ids"),
        (([[5, 6]], [0], [[-1.0]]), "reference_logprobs"),
        (([[5, 6]], [0], [None, None]), "reference_logprobs"),
        (([[5] * 300], [0]), "limit is 256"),
    ],
)
def test_invalid_extensions_are_refused_and_change_nothing(arguments, match, prms):
    session = prms["two models"].open(PROBLEM)
    with pytest.raises(ImplicitPRMError, match=match):
        session.extend(*arguments)
    assert session.ids == [[]]
    session.extend([[5]], [0])


def test_other_invalid_arguments(prms):
    session = prms["no reference"].open(PROBLEM)
    for call, match in [
        (lambda: session.select([0, 1]), "indices"),
        (lambda: session.next_token_rewards(1), "row"),
        (lambda: session.extend([[5]], [0], [[-1.0]]), "reference_logprobs"),
        (lambda: prms["two models"].open("1 + 1 = " * 100), "limit is 256"),
    ]:
        with pytest.raises(ImplicitPRMError, match=match):
            call()


def test_log_probabilities_that_are_not_finite_are_refused(prms):
    session = prms["two models"].open(PROBLEM)
    with pytest.raises(ImplicitPRMError, match="response 1"):
        session.extend([[5], [6]], [0, 0], [[-1.0], [float("nan")]])


def test_an_extension_that_fails_changes_nothing(prms, monkeypatch):
    prm = prms["two models"]
    session, whole = prm.open(PROBLEM), prm.open(PROBLEM)
    for one in (session, whole):
        one.extend([[5, 6], [7]], [0, 0])
    with pytest.raises(ImplicitPRMError, match="response 1"):
        session.extend([[8], [9, 10]], [1, 0], [[-1.0], [-1.0, float("inf")]])
    with monkeypatch.context() as patch:
        patch.setattr(session, "_reference_logprobs", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.extend([[11]], [1])
    assert session.ids == [[5, 6], [7]]
    found, expected = (one.extend([[8], [9, 10]], [1, 0]) for one in (session, whole))
    for one, other in zip(found, expected, strict=True):
        assert one.token_rewards == pytest.approx(other.token_rewards, abs=1e-6)
        assert one.prefix_value == pytest.approx(other.prefix_value, abs=1e-6)
