"""The growing caches give the scores of whole prefixes, from the new tokens alone."""

from dataclasses import replace

import pytest

from implicit_prm import ImplicitPRM, ImplicitPRMError
from implicit_prm.models.shared_prompt import response_logprobs
from implicit_prm.search.protocols import Prefix
from implicit_prm.search.session_guide import SessionGuide
from implicit_prm.types import Problem

PROBLEM = Problem("p", "Modulo 50, left to right: 1 + 2 * 3", "9")
ROUNDS = [
    (["1 + 2 = 3\n", "1 + 2 = 4\n", "1 + 2 = 5\n"], [0, 0, 0], [False] * 3),
    (["1 + 2 = 4\n4 * 3 = 12\n", "1 + 2 = 4\n\\boxed{4}", "1 + 2 = 3\n3 * "], [1, 1, 0], [False, True, False]),
    (
        ["1 + 2 = 4\n\\boxed{4}", "1 + 2 = 3\n3 * 3 = 9\n", "1 + 2 = 4\n4 * 3 = 12\n\\boxed{"],
        [1, 2, 0],
        [True, False, False],
    ),
]


@pytest.fixture(scope="module")
def prm(tiny_folder, other_folder):
    return ImplicitPRM.from_pretrained(
        tiny_folder, reference=str(other_folder), beta=0.5, steps="newline", device="cpu"
    )


def assert_equal(prm, found, texts, finished):
    for one, expected in zip(found, prm.score(PROBLEM.text, texts, finished=finished), strict=True):
        assert one.step_rewards == pytest.approx(expected.step_rewards, abs=1e-4)
        assert one.prefix_values == pytest.approx(expected.prefix_values, abs=1e-4)
        assert (one.spans, one.step_tokens) == (expected.spans, expected.step_tokens)


def prefixes(prm, texts, finished):
    ids = [tuple(one.ids) for one in prm.encoder.responses(texts, finished)]
    return [Prefix(*one, finished=done) for *one, done in zip(texts, ids, finished, strict=True)]


def test_scores_are_those_of_whole_prefixes_and_tokens_those_of_the_new_ones(prm):
    guide, known, tokens = SessionGuide(prm, PROBLEM, PROBLEM.text), [[]], 2 * len(prm.encoder.prompt_ids(PROBLEM.text))
    for texts, parents, finished in ROUNDS:
        now = prefixes(prm, texts, finished)
        assert_equal(prm, guide.score(now, parents), texts, finished)
        tokens += 2 * sum(len(one.ids) - len(known[parent]) for one, parent in zip(now, parents, strict=True))
        known = [one.ids for one in now]
    assert guide.tokens == tokens


def test_a_generator_that_is_the_reference_spares_the_reference(prm):
    guide, prompt = (
        SessionGuide(prm, PROBLEM, PROBLEM.text, generator_is_reference=True),
        prm.encoder.prompt_ids(PROBLEM.text),
    )
    for texts, parents, finished in ROUNDS:
        now = prefixes(prm, texts, finished)
        logprobs = response_logprobs(prm.reference, prompt, [one.ids for one in now], 1024)
        now = [Prefix(p.text, p.ids, tuple(some.tolist()), p.finished) for p, some in zip(now, logprobs, strict=True)]
        assert_equal(prm, guide.score(now, parents), texts, finished)
    assert guide.tokens < len(prompt) + 80


def test_the_reference_runs_only_where_other_tokens_were_generated(prm):
    texts, finished = ["1 + 2 = 3\n", "1 + 2 = 4\n", "1 + 2 = 5"], [False, False, True]
    prompt, now = prm.encoder.prompt_ids(PROBLEM.text), prefixes(prm, texts, finished)
    logprobs = response_logprobs(prm.reference, prompt, [one.ids for one in now], 1024)
    now = [replace(one, logprobs=tuple(some.tolist())) for one, some in zip(now, logprobs, strict=True)]
    now[2] = replace(now[2], ids=(*now[2].ids[:-1], 0))  # another token has ended it
    guide = SessionGuide(prm, PROBLEM, PROBLEM.text, generator_is_reference=True)
    for parents in ([0, 0, 0], [0, 1, 2]):  # in the second round nothing is new
        assert_equal(prm, guide.score(now, parents), texts, finished)
    policy = len(prompt) + sum(map(len, logprobs))
    assert guide.tokens == policy + len(prompt) + len(logprobs[2])


def test_a_beginning_whose_tokens_change_is_computed_again(prm):
    """The texts 1 and 12 are one token each."""
    guide = SessionGuide(prm, PROBLEM, PROBLEM.text)
    texts = ["1", "1 + 2"]
    assert len(prm.encoder.response("12", finished=False).ids) == 1
    assert_equal(prm, guide.score(prefixes(prm, texts, [False] * 2), [0, 0]), texts, [False] * 2)
    before, texts = guide.tokens, ["12", "1 + 2 = 3"]
    assert_equal(prm, guide.score(prefixes(prm, texts, [False] * 2), [0, 1]), texts, [False] * 2)
    sizes = [len(one.ids) for one in prm.encoder.responses(["1 + 2", "1 + 2 = 3"], [False] * 2)]
    assert guide.tokens == before + 2 * (1 + sizes[1] - sizes[0])


def test_an_empty_prefix_has_no_steps(prm):
    (scores,) = SessionGuide(prm, PROBLEM, PROBLEM.text).score([Prefix("", (), finished=True)], [0])
    assert scores.step_rewards == []


def test_errors_name_the_problem(prm):
    long = Prefix("1 + 2 = 3\n" * 60)
    with pytest.raises(ImplicitPRMError, match=r"problem p: response 1 .* 256.* sampling\.max_new_tokens"):
        SessionGuide(prm, PROBLEM, PROBLEM.text).score([Prefix("1"), long], [0, 0])
