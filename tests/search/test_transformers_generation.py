"""Generation in rounds: the samples of `ipr-rollout` without selection; a prefix continues as it would from scratch."""

import torch

from implicit_prm.config import SamplingConfig, TextConfig
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models.shared_prompt import response_logprobs
from implicit_prm.rollouts.generation import DecodingRows
from implicit_prm.rollouts.transformers_sampler import sample
from implicit_prm.search.step_ends import StepEnds
from implicit_prm.search.transformers_generation import SlotNumbers, TransformersGeneration
from implicit_prm.types import Problem
from tests.conftest import tiny_model

PROBLEM = Problem("p", "Modulo 50, left to right: 1 + 2 * 3", "9")


class RandomEnds:
    """Steps of random lengths, so that rows wait for each other."""

    @staticmethod
    def reached(ids, start):
        return ids[-1] % 5 == 0


def generation(tokenizer, sampling, step_ends=RandomEnds, waits=True, **options):
    model, encoder = tiny_model(tokenizer), Encoder(tokenizer, TextConfig())
    prompt = encoder.prompt_ids(PROBLEM.text)

    def open_rows(responses):
        rows = DecodingRows(model, [[*prompt, *ids] for ids in responses])
        rows.can_wait = rows.can_wait and waits
        return rows

    return TransformersGeneration(open_rows, encoder, len(prompt), sampling, 3, step_ends, **options)


def rounds(one, n, parents):
    """Prefixes after rounds with these parents, then until all are done."""
    found = [one.extend([0] * n)]
    for chosen in parents:
        found.append(one.extend(chosen))
    while not all(prefix.done for prefix in found[-1]):
        found.append(one.extend(range(n)))
    return found


def test_without_selection_it_is_plain_sampling(tokenizer):
    sampling = SamplingConfig(n=6, max_new_tokens=40, temperature=0.8, top_p=0.95)
    (expected,) = sample(tiny_model(tokenizer), Encoder(tokenizer, TextConfig()), [PROBLEM], sampling, [3])
    for options in ({}, {"waits": False}, {"step_ends": None}):
        found = rounds(generation(tokenizer, sampling, **options), 6, [])
        assert len(found) > 3 or "step_ends" in options
        assert [prefix.text for prefix in found[-1]] == expected.texts
        assert [prefix.finished for prefix in found[-1]] == expected.finished
        assert [prefix.cut_off for prefix in found[-1]] == [not done for done in expected.finished]
    assert len({len(text) for text in expected.texts}) > 2


def test_rows_that_wait_continue_as_from_scratch(tokenizer):
    """With the same random numbers, rows that are kept and rows that are encoded again give the same tokens."""
    sampling = SamplingConfig(n=6, max_new_tokens=40)
    parents = [[1, 1, 0, 5, 3, 3], [2, 0, 0, 1, 5, 4]]
    kept = rounds(generation(tokenizer, sampling), 6, parents)
    rebuilt = rounds(generation(tokenizer, sampling, waits=False), 6, parents)
    assert kept == rebuilt
    for before, after, chosen in zip(kept[:2], kept[1:3], parents, strict=True):
        for slot, parent in enumerate(chosen):
            assert after[slot].text.startswith(before[parent].text)
            assert before[parent].done == (after[slot] == before[parent])


def test_rows_that_are_encoded_again_are_counted(tokenizer):
    sampling, parents = SamplingConfig(n=6, max_new_tokens=40), [1, 1, 0, 5, 3, 3]
    kept, rebuilt = generation(tokenizer, sampling), generation(tokenizer, sampling, waits=False)
    prompt = kept.tokens
    first, _ = ([one.extend([0] * 6), one.extend(parents)] for one in (kept, rebuilt))
    again = [first[0][parent] for parent in parents if not first[0][parent].done]
    assert again
    assert rebuilt.tokens == kept.tokens + sum(prompt + len(prefix.ids) for prefix in again)


def test_a_step_ends_with_its_line_and_tokens_are_counted(tokenizer):
    sampling = SamplingConfig(n=6, max_new_tokens=40)
    one = generation(tokenizer, sampling, StepEnds(tokenizer, "newline"))
    prompt = one.tokens
    first = one.extend([0] * 6)
    assert all(prefix.done or prefix.text.endswith("\n") for prefix in first)
    assert not all(prefix.done for prefix in first)
    assert one.tokens == prompt + sum(len(prefix.ids) for prefix in first)
    before = one.tokens
    second = one.extend([2, 2, 2, 0, 0, 0])
    grown = [len(second[slot].ids) - len(first[parent].ids) for slot, parent in enumerate([2, 2, 2, 0, 0, 0])]
    assert one.tokens == before + sum(grown)
    assert generation(tokenizer, sampling, models=(0, 2)).guide_tokens == 2 * prompt
    assert generation(tokenizer, sampling, models=(0, 2)).tokens == 0


def test_logprobs_are_the_models_at_temperature_one(tokenizer):
    sampling = SamplingConfig(n=4, max_new_tokens=30, temperature=0.5, top_p=0.9)
    found = rounds(generation(tokenizer, sampling, keep_logprobs=True), 4, [[3, 3, 1, 0]])[-1]
    prompt = Encoder(tokenizer, TextConfig()).prompt_ids(PROBLEM.text)
    with torch.no_grad():
        expected = response_logprobs(tiny_model(tokenizer), prompt, [list(prefix.ids) for prefix in found], 1024)
    for prefix, logprobs in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor(prefix.logprobs), logprobs, atol=1e-4, rtol=0)


def test_numbers_of_a_slot_are_never_used_twice():
    numbers = SlotNumbers(0, 2, 3)
    first = [numbers.take([0])[0] for _ in range(8)]
    assert len(set(first)) == 8
    assert not set(first) & {numbers.take([1])[0] for _ in range(8)}
