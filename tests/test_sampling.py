"""Sampling with transformers: from the model's own distribution, the same in a batch as alone, within the context."""

import torch
from conftest import tiny_model

from implicit_prm.config import PolicyConfig, SamplingConfig, TextConfig
from implicit_prm.data.tokens import Encoder
from implicit_prm.processes import Processes
from implicit_prm.records import Problem
from implicit_prm.sampling import TransformersSampler, sample

SHORT = Problem("short", "Modulo 50, left to right: 1 + 2", "3")
LONG = Problem("long", "Modulo 50, left to right: 1 + 2 * 3 + 4 * 5", "15")


def test_the_models_own_generation_defaults_do_not_bend_the_distribution(tokenizer):
    """A generation config with top_k=1 would make every sample the greedy one."""
    model = tiny_model(tokenizer)
    model.generation_config.top_k = 1
    model.generation_config.repetition_penalty = 5.0
    encoder = Encoder(tokenizer, TextConfig())
    (samples,) = sample(model, encoder, [SHORT], SamplingConfig(n=64, max_new_tokens=1), 0)
    probabilities = model(torch.tensor([encoder.prompt_ids(SHORT.text)])).logits[0, -1].softmax(-1)
    expected_distinct = (1 - (1 - probabilities) ** 64).sum().item()
    assert len(set(samples.texts)) > expected_distinct / 2


def test_prompts_of_different_lengths_sample_as_they_do_alone(tokenizer):
    """Left padding is masked: near-greedy samples of a batch equal those of single prompts."""
    model, encoder = tiny_model(tokenizer), Encoder(tokenizer, TextConfig())
    options = SamplingConfig(n=1, temperature=1e-4, max_new_tokens=8)
    together = sample(model, encoder, [SHORT, LONG], options, 0)
    assert together == [sample(model, encoder, [problem], options, 0)[0] for problem in (SHORT, LONG)]


def test_tokens_are_counted_up_to_the_end_of_each_response(tokenizer):
    model, encoder = tiny_model(tokenizer), Encoder(tokenizer, TextConfig())
    (samples,) = sample(model, encoder, [SHORT], SamplingConfig(n=16, max_new_tokens=40), 0)
    assert True in samples.finished
    assert False in samples.finished
    least = sum(40 if not finished else 1 for finished in samples.finished)
    assert least <= samples.tokens < 16 * 40


def test_a_prompt_that_leaves_no_room_is_refused_and_the_others_are_sampled(tiny_folder):
    sampler = TransformersSampler(
        PolicyConfig(str(tiny_folder)), SamplingConfig(n=2, max_new_tokens=200, batch_size=3), TextConfig()
    )
    too_long = Problem("too long", SHORT.text + " + 1" * 60, "13")
    first, second, third = sampler.sample([SHORT, too_long, LONG], set(), Processes())
    assert len(first.texts) == len(third.texts) == 2
    assert (second.problem.id, second.texts) == ("too long", [])
    assert "more than the 256 tokens of the model's context" in second.refused
    alone = list(sampler.sample([too_long], set(), Processes()))
    assert [samples.refused for samples in alone] == [second.refused]
