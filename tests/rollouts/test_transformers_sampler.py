"""Sampling with transformers: the model's own distribution, independence of the batch, the context's limit."""

from collections import defaultdict

import torch

from implicit_prm.config import PolicyConfig, SamplingConfig, TextConfig
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models.source import ModelSource
from implicit_prm.rollouts.transformers_sampler import Prefix, TransformersSampler, complete, open_for_sampling, sample
from implicit_prm.types import Problem
from implicit_prm.utils.distributed import Processes
from tests.conftest import tiny_model

SHORT = Problem("short", "Modulo 50, left to right: 1 + 2", "3")
LONG = Problem("long", "Modulo 50, left to right: 1 + 2 * 3 + 4 * 5", "15")


def _opened(folder, tokenizer, **generation_defaults):
    """The tiny model, saved with these generation defaults and opened for sampling."""
    model = tiny_model(tokenizer)
    for name, value in generation_defaults.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return open_for_sampling(ModelSource.resolve(folder), PolicyConfig(str(folder)))


# Many chat models come with a top-k and a repetition penalty.
DEFAULTS = {"do_sample": True, "top_k": 1, "repetition_penalty": 5.0}


def test_generation_defaults_of_the_model_are_ignored(tokenizer, tmp_path):
    plain, encoder = _opened(tmp_path / "plain", tokenizer), Encoder(tokenizer, TextConfig())
    with_defaults = _opened(tmp_path / "with_defaults", tokenizer, **DEFAULTS)
    options = SamplingConfig(n=16, max_new_tokens=8)
    assert sample(with_defaults, encoder, [SHORT], options, [0]) == sample(plain, encoder, [SHORT], options, [0])


def test_prompts_of_different_lengths_sample_as_they_do_alone(tokenizer):
    """Left padding is masked: near-greedy samples of a batch equal those of single prompts."""
    model, encoder = tiny_model(tokenizer), Encoder(tokenizer, TextConfig())
    options = SamplingConfig(n=1, temperature=1e-4, max_new_tokens=8)
    together = sample(model, encoder, [SHORT, LONG], options, [0, 1])
    assert together == [sample(model, encoder, [problem], options, [0])[0] for problem in (SHORT, LONG)]


def test_tokens_are_counted_up_to_the_end_of_each_response(tokenizer):
    model, encoder = tiny_model(tokenizer), Encoder(tokenizer, TextConfig())
    (samples,) = sample(model, encoder, [SHORT], SamplingConfig(n=16, max_new_tokens=40), [0])
    assert True in samples.finished
    assert False in samples.finished
    least = sum(40 if not finished else 1 for finished in samples.finished)
    assert least <= samples.tokens < 16 * 40


def test_prompt_without_room_is_refused_and_the_others_are_sampled(tiny_folder):
    sampler = TransformersSampler(
        PolicyConfig(str(tiny_folder)), SamplingConfig(n=2, max_new_tokens=200, batch_size=3), TextConfig()
    )
    too_long = Problem("too long", SHORT.text + " + 1" * 60, "13")
    first, second, third = sampler.sample([SHORT, too_long, LONG], set(), Processes())
    assert len(first.texts) == len(third.texts) == 2
    assert (second.problem.id, second.texts) == ("too long", [])
    assert "256 tokens" in second.refused
    alone = list(sampler.sample([too_long], set(), Processes()))
    assert [samples.refused for samples in alone] == [second.refused]


def _prefixes(encoder, problem, texts, seed=0):
    prompt = encoder.prompt_ids(problem.text)
    return [Prefix(prompt, encoder.response(text, finished=False).ids, seed + n) for n, text in enumerate(texts)]


def test_prefixes_are_completed(tokenizer):
    """Whole responses are returned, prefix included, and they do not depend on the batch."""
    model, encoder = tiny_model(tokenizer), Encoder(tokenizer, TextConfig())
    options = SamplingConfig(n=3, max_new_tokens=8)
    prefixes = _prefixes(encoder, SHORT, ["1 + 2", ""]) + _prefixes(encoder, LONG, ["1 + 2 = 3\n3"], seed=7)
    together = complete(model, encoder, prefixes, options)
    for prefix, completed in zip(["1 + 2", "", "1 + 2 = 3\n3"], together, strict=True):
        assert len(completed.texts) == 3
        assert all(text.startswith(prefix) for text in completed.texts)
        assert 3 <= completed.tokens <= 24
    assert together == [complete(model, encoder, [one], options)[0] for one in prefixes]
    assert together[::-1] == complete(model, encoder, prefixes[::-1], options)
    assert len(set(together[0].texts)) > 1


def test_completions_follow_the_model_and_not_its_generation_defaults(tokenizer, tmp_path):
    """The shares of 4,000 tokens are within five standard errors of the model's probabilities."""
    model, encoder = _opened(tmp_path, tokenizer, **DEFAULTS), Encoder(tokenizer, TextConfig())
    (prefix,) = _prefixes(encoder, SHORT, ["1 + 2 = "])
    logits = model(torch.tensor([[*prefix.prompt_ids, *prefix.ids]])).logits[0, -1].double()
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.6)):
        options = SamplingConfig(n=4000, max_new_tokens=1, temperature=temperature, top_p=top_p)
        (found,) = complete(model, encoder, [prefix], options)
        expected = (logits / temperature).softmax(-1)
        order = expected.argsort(descending=True)
        outside = expected[order].cumsum(-1) - expected[order] >= top_p  # more probable tokens make up top_p already
        expected[order[outside]] = 0
        expected /= expected.sum()
        by_text = defaultdict(float)  # special tokens leave no trace in a text
        for token, probability in enumerate(expected.tolist()):
            by_text[tokenizer.decode([*prefix.ids, token], skip_special_tokens=True)] += probability
        assert set(found.texts) <= by_text.keys()
        for text, probability in by_text.items():
            error = (max(probability * (1 - probability), 0) / 4000) ** 0.5
            assert abs(found.texts.count(text) / 4000 - probability) <= 5 * error + 1e-9
