"""A prompt that is encoded once gives the numbers, and the gradients, of one that is encoded with every response."""

import copy
import warnings

import pytest
import torch
from torch.profiler import profile
from transformers import AutoConfig, AutoModelForCausalLM

from implicit_prm.models import shared_prompt
from implicit_prm.models.forward import disable_dropout
from implicit_prm.models.shared_prompt import PlainRows, SharedPrompt, open_prompt, pieces, response_logprobs
from tests.models.test_forward import ARCHITECTURES, SMALL

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
RESPONSES = [[20, 21, 22], [23], [24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36], [40, 41, 42, 43, 44]]


def _model(name, **options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **(SMALL | ARCHITECTURES.get(name, {}) | options))
    model = AutoModelForCausalLM.from_config(config).eval()
    disable_dropout(model)
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_plain_rows(name):
    model = _model(name)
    with torch.no_grad():
        shared, plain = (way(model, PROMPT).logprobs(RESPONSES) for way in (SharedPrompt, PlainRows))
        assert shared.shape == (4, 13)
        assert (shared - plain).abs().max() < 1e-5
        assert plain.abs().sum() > 1
        assert isinstance(open_prompt(model, PROMPT), SharedPrompt)


@pytest.mark.parametrize("max_tokens", [1, 20, 1000])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gemma3_text", "qwen3", "gpt2", "cohere"])
def test_gradients_equal_those_of_plain_rows(name, max_tokens):
    weights = torch.tensor([0.5, -1.0, 0.25, 2.0])
    found = []
    for way in (SharedPrompt, PlainRows):
        model = _model(name).train()
        prompt = way(model, PROMPT)
        for piece in pieces([len(ids) for ids in RESPONSES], max_tokens, prompt.row_overhead):
            logprobs = prompt.logprobs([RESPONSES[place] for place in piece])
            (logprobs.sum(-1) * weights[piece]).sum().backward()
        prompt.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    shared, plain = found
    assert (shared - plain).norm() < 1e-5 * plain.norm()


def test_pieces_go_through_the_embedding_once():
    """Its gradient is as large as the vocabulary: one for each piece would cost more than the pieces."""
    with profile() as prof:
        prompt = SharedPrompt(_model("llama").train(), PROMPT)
        for ids in RESPONSES:
            prompt.logprobs([ids]).sum().backward()
        prompt.backward()
    assert [event.count for event in prof.key_averages() if event.key == "aten::embedding_dense_backward"] == [1]


def test_a_prompt_longer_than_the_sliding_window():
    model = _model("mistral", sliding_window=4)
    with torch.no_grad():
        shared, plain = (way(model, PROMPT).logprobs(RESPONSES) for way in (SharedPrompt, PlainRows))
    assert (shared - plain).abs().max() < 1e-5


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


def test_pieces_hold_what_fits_and_no_response_is_lost():
    assert pieces([5, 1, 3, 3], 8) == [[0], [2, 3], [1]]
    assert pieces([5, 1, 3, 3], 10) == [[0, 2], [3, 1]]
    for budget in (1, 7, 20, 100):
        cut = pieces([5, 1, 3, 9, 9, 2], budget, row_overhead=1)
        assert sorted(place for piece in cut for place in piece) == list(range(6))
        for piece in cut:
            assert len(piece) == 1 or len(piece) * (max([5, 1, 3, 9, 9, 2][p] for p in piece) + 1) <= budget
    assert pieces([], 10) == []


def test_models_that_keep_another_state_fall_back_with_a_warning(monkeypatch):
    monkeypatch.setattr(shared_prompt, "_verdicts", {})
    model = _model("mamba2", num_heads=4, head_dim=16, state_size=8, n_groups=1, expand=2, chunk_size=8)
    with pytest.warns(UserWarning, match="cannot share a prompt"):
        assert isinstance(open_prompt(model, PROMPT), PlainRows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(open_prompt(model, PROMPT), PlainRows)


def test_a_model_whose_shared_numbers_differ_falls_back(monkeypatch):
    monkeypatch.setattr(shared_prompt, "_verdicts", {})
    original = SharedPrompt.logprobs
    monkeypatch.setattr(SharedPrompt, "logprobs", lambda self, responses: original(self, responses) + 0.1)
    with pytest.warns(UserWarning, match=r"differ by 0\.1 nats"):
        assert isinstance(open_prompt(_model("llama"), PROMPT), PlainRows)


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
