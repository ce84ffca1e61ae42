"""A prompt that is encoded once gives the numbers, and the gradients, of one that is encoded with every response."""

import copy
import os
import warnings
from functools import partial

import pytest
import torch
from torch.profiler import profile
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicLayer

from implicit_prm.config import TextConfig
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models import self_check, shared_prompt
from implicit_prm.models.forward import disable_dropout
from implicit_prm.models.loading import open_model, open_tokenizer
from implicit_prm.models.shared_prompt import PlainRows, SharedPrompt, open_prompt, pieces, response_logprobs
from implicit_prm.models.source import ModelSource
from tests.models.test_forward import ARCHITECTURES, SMALL

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
RESPONSES = [[20, 21, 22], [23], [24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36], [40, 41, 42, 43, 44]]


def _model(name, **options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **(SMALL | ARCHITECTURES.get(name, {}) | options))
    model = AutoModelForCausalLM.from_config(config).eval()
    disable_dropout(model)
    return model


# The largest attention mask: with masks, and without them as for long responses.
LIMITS = {"masked": 2**24, "without mask": 0}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_plain_rows(name, limit):
    model = _model(name)
    with torch.no_grad():
        shared = SharedPrompt(model, PROMPT, largest_mask=limit).logprobs(RESPONSES)
        plain = PlainRows(model, PROMPT).logprobs(RESPONSES)
        assert shared.shape == (4, 13)
        assert (shared - plain).abs().max() < 1e-5
        assert plain.abs().sum() > 1
        assert isinstance(open_prompt(model, PROMPT), SharedPrompt)


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("max_tokens", [1, 20, 1000])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gemma3_text", "qwen3", "gpt2", "cohere"])
def test_gradients_equal_those_of_plain_rows(name, max_tokens, limit):
    weights = torch.tensor([0.5, -1.0, 0.25, 2.0])
    found = []
    for way in (partial(SharedPrompt, largest_mask=limit), PlainRows):
        model = _model(name).train()
        prompt = way(model, PROMPT)
        for piece in pieces([len(ids) for ids in RESPONSES], max_tokens, prompt.row_overhead):
            logprobs = prompt.logprobs([RESPONSES[place] for place in piece])
            (logprobs.sum(-1) * weights[piece]).sum().backward()
        prompt.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    shared, plain = found
    assert (shared - plain).norm() < 1e-5 * plain.norm()


def test_log_ratio_trainer_go_through_the_embedding_once():
    """Its gradient is as large as the vocabulary: one for each piece would cost more than the pieces."""
    with profile() as prof:
        prompt = SharedPrompt(_model("llama").train(), PROMPT)
        for ids in RESPONSES:
            prompt.logprobs([ids]).sum().backward()
        prompt.backward()
    assert [event.count for event in prof.key_averages() if event.key == "aten::embedding_dense_backward"] == [1]


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_a_prompt_longer_than_the_sliding_window(limit):
    model = _model("mistral", sliding_window=4)
    with torch.no_grad():
        shared = SharedPrompt(model, PROMPT, largest_mask=limit).logprobs(RESPONSES)
        plain = PlainRows(model, PROMPT).logprobs(RESPONSES)
    assert (shared - plain).abs().max() < 1e-5


def _masks(monkeypatch, prompt, width):
    """The masks that attention gets for a response of `width` tokens."""
    found, original = [], torch.nn.functional.scaled_dot_product_attention

    def recorded(*args, attn_mask=None, **kwargs):
        found.append(attn_mask)
        return original(*args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    with torch.no_grad():
        prompt.logprobs([[7] * width])
    return found


def test_long_responses_need_no_mask(monkeypatch):
    """Its memory is the length squared. For a response shorter than the prompt it saves time."""
    model = _model("llama", max_position_embeddings=2048)
    with torch.no_grad():
        short, long, limited = (SharedPrompt(model, [5] * 600, largest_mask=most) for most in (2**24, 2**24, 1000))
    assert all(mask is not None for mask in _masks(monkeypatch, short, 500))
    assert all(mask is None for mask in _masks(monkeypatch, long, 700))
    assert all(mask is None for mask in _masks(monkeypatch, limited, 500))
    assert model.config._attn_implementation == "sdpa"


def test_an_adapter_and_its_absence():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(_model("llama"), LoraConfig(target_modules="all-linear", init_lora_weights=False))
    with torch.no_grad():
        on = SharedPrompt(model, PROMPT).logprobs(RESPONSES)
        with model.disable_adapter():
            off = SharedPrompt(model, PROMPT).logprobs(RESPONSES)
        assert (on - PlainRows(model, PROMPT).logprobs(RESPONSES)).abs().max() < 1e-5
        assert (on - off).abs().max() > 1e-3


def test_response_logprobs_come_in_the_order_given():
    model = _model("llama")
    for max_tokens in (1, 8, 64):
        found = response_logprobs(model, PROMPT, RESPONSES, max_tokens)
        with torch.no_grad():
            plain = PlainRows(model, PROMPT).logprobs(RESPONSES)
        for row, one, ids in zip(plain, found, RESPONSES, strict=True):
            assert one.shape == (len(ids),)
            assert torch.allclose(one, row[: len(ids)], atol=1e-5)


def test_a_single_response_is_a_plain_row(monkeypatch):
    monkeypatch.setattr(shared_prompt, "open_prompt", None)
    model = _model("llama")
    (found,) = response_logprobs(model, PROMPT, RESPONSES[:1], 64)
    with torch.no_grad():
        torch.testing.assert_close(found, PlainRows(model, PROMPT).logprobs(RESPONSES[:1])[0])


def test_log_ratio_trainer_hold_what_fits_and_no_response_is_lost():
    assert pieces([5, 1, 3, 3], 8) == [[0], [2, 3], [1]]
    assert pieces([5, 1, 3, 3], 10) == [[0, 2], [3, 1]]
    for budget in (1, 7, 20, 100):
        cut = pieces([5, 1, 3, 9, 9, 2], budget, row_overhead=1)
        assert sorted(place for piece in cut for place in piece) == list(range(6))
        for piece in cut:
            assert len(piece) == 1 or len(piece) * (max([5, 1, 3, 9, 9, 2][p] for p in piece) + 1) <= budget
    assert pieces([], 10) == []


@pytest.fixture
def no_verdicts(monkeypatch):
    """Every model is checked anew."""
    monkeypatch.setattr(self_check, "_verdicts", {})


@pytest.mark.usefixtures("no_verdicts")
def test_models_with_another_state_fall_back_with_one_warning():
    model = _model("mamba2", num_heads=4, head_dim=16, state_size=8, n_groups=1, expand=2, chunk_size=8)
    with pytest.warns(UserWarning, match="Mamba2"):
        assert isinstance(open_prompt(model, PROMPT), PlainRows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(open_prompt(model, PROMPT), PlainRows)


def _shift_positions(monkeypatch):
    """Responses start one position too late."""
    original = shared_prompt.target_logprobs

    def shifted(model, wanted, targets, core=None, **inputs):
        cache = inputs.get("past_key_values")
        if cache is not None:
            rows, width = wanted.shape
            inputs["position_ids"] = (torch.arange(width) + cache.get_seq_length() + 1).expand(rows, -1)
        return original(model, wanted, targets, core, **inputs)

    monkeypatch.setattr(shared_prompt, "target_logprobs", shifted)


def _forget_the_window(monkeypatch):
    """Sliding windows are read like full attention: keys that left the window shift those that are in it."""
    original = SharedPrompt._fork

    def fork(self, rows):
        cache = original(self, rows)
        for place, layer in enumerate(cache.layers):
            plain = DynamicLayer()
            plain.keys, plain.values, plain.is_initialized = layer.keys, layer.values, True
            plain.dtype, plain.device = layer.keys.dtype, layer.keys.device
            cache.layers[place] = plain
        return cache

    monkeypatch.setattr(SharedPrompt, "_fork", fork)


def _drop_a_key(monkeypatch):
    """A mask that hides one of the prompt's tokens."""
    original = SharedPrompt.__init__

    def without_one(self, model, prompt_ids, core=None, *limit):
        original(self, model, [*prompt_ids[:-2], prompt_ids[-1]], core, *limit)

    monkeypatch.setattr(SharedPrompt, "__init__", without_one)


BROKEN = [_shift_positions, _forget_the_window, _drop_a_key]


@pytest.mark.usefixtures("no_verdicts")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("break_it", [None, *BROKEN])
def test_a_broken_implementation_is_caught_in_every_dtype(break_it, dtype, monkeypatch):
    """With a prompt that is longer than the sliding window."""
    model = _model("mistral", sliding_window=4).to(dtype)
    if break_it is None:
        assert isinstance(open_prompt(model, PROMPT), SharedPrompt)
        return
    break_it(monkeypatch)
    with pytest.warns(UserWarning, match=r"differ by .* nats"):
        assert isinstance(open_prompt(model, PROMPT), PlainRows)


@pytest.mark.usefixtures("no_verdicts")
def test_autocast_does_not_blur_the_check(monkeypatch):
    _shift_positions(monkeypatch)
    with torch.autocast("cpu", torch.bfloat16), pytest.warns(UserWarning, match=r"differ by .* nats"):
        assert isinstance(open_prompt(_model("llama"), PROMPT), PlainRows)


@pytest.mark.usefixtures("no_verdicts")
def test_rounding_alone_is_not_taken_for_a_difference(monkeypatch):
    """In bfloat16 an improbable token may differ by more than half a nat although the implementation is right."""
    original = SharedPrompt.logprobs
    seen = []

    def rounded(self, responses):
        seen.append(self._computed[0].dtype)
        return original(self, responses) + 2.0 * (seen[-1] == torch.bfloat16)

    monkeypatch.setattr(SharedPrompt, "logprobs", rounded)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(open_prompt(_model("llama").to(torch.bfloat16), PROMPT), SharedPrompt)
    assert set(seen) == {torch.float32}


@pytest.mark.shared
@pytest.mark.usefixtures("no_verdicts")
@pytest.mark.parametrize("variable", ["IPR_SMOLLM2", "IPR_QWEN25"])
def test_real_models_share_the_prompt_in_bfloat16(variable):
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} names no model's folder")
    source = ModelSource.resolve(folder)
    encoder = Encoder(open_tokenizer(source), TextConfig())
    model = open_model(source, "bfloat16")
    prompt_ids = encoder.prompt_ids("A train leaves at 9:40 and arrives at 13:05. How many minutes does it take?")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(open_prompt(model, prompt_ids), SharedPrompt)
    difference, limit = self_check.measured(partial(shared_prompt._difference, prompt_ids), model)
    assert difference < 0.05 * limit


def test_gradient_checkpointing_and_one_token_take_plain_rows():
    model = _model("llama")
    assert isinstance(open_prompt(model, [5]), PlainRows)
    model.gradient_checkpointing_enable()
    assert isinstance(open_prompt(model.train(), PROMPT), PlainRows)
    assert isinstance(open_prompt(model.eval(), PROMPT), SharedPrompt)


@pytest.mark.parametrize("way", [SharedPrompt, PlainRows])
def test_no_response_runs_the_model_and_moves_nothing(way):
    """What a process does that has fewer responses than the others, while FSDP waits for it."""
    model = _model("llama").train()
    before = copy.deepcopy(model.state_dict())
    prompt = way(model, PROMPT)
    prompt.logprobs([]).sum().backward()
    prompt.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
