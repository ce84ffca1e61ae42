"""Rows beyond a model's original context, where dynamic NTK and LongRoPE change all positions."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from implicit_prm.models import self_check
from implicit_prm.models.cached_rows import CachedRows, RescoredRows, open_rows
from implicit_prm.models.forward import disable_dropout
from implicit_prm.models.rotary import fixed_length
from implicit_prm.models.shared_prompt import PlainRows, SharedPrompt, open_prompt, response_logprobs
from tests.models.test_forward import SMALL

CONTEXT = 24
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
}
MODELS = {
    "dynamic": ("llama", {"max_position_embeddings": CONTEXT, "rope_parameters": DYNAMIC}),
    "longrope": ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": CONTEXT}),
}
PROMPT = list(range(5, 17))
RESPONSES = [[20, 21, 22], [23, 24, 25, 26, 27, 28], list(range(20, 45)), list(range(25, 48))]


@pytest.fixture(params=MODELS, ids=str)
def model(request):
    name, options = MODELS[request.param]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **(SMALL | options))).eval()
    disable_dropout(model)
    return model


def _alone(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPT, *ids]]), use_cache=False).logits[0]
    scores = logits[len(PROMPT) - 1 : -1].log_softmax(-1)
    return scores[torch.arange(len(ids)), torch.tensor(ids)]


def test_the_length_up_to_which_positions_are_fixed(model):
    assert fixed_length(model) == CONTEXT - 1
    config = AutoConfig.for_model("llama", **SMALL)
    assert fixed_length(AutoModelForCausalLM.from_config(config)) is None


def test_every_response_is_scored_as_by_itself(model):
    """Short ones share the prompt; long ones change the positions of all rows of their forward pass."""
    assert isinstance(open_prompt(model, PROMPT), SharedPrompt)
    for found in (
        response_logprobs(model, PROMPT, RESPONSES, 10_000),
        [row[: len(ids)] for row, ids in zip(PlainRows(model, PROMPT).logprobs(RESPONSES), RESPONSES, strict=True)],
    ):
        for logprobs, ids in zip(found, RESPONSES, strict=True):
            assert (logprobs - _alone(model, ids)).abs().max() < 1e-5


def test_gradients_are_those_of_single_rows(model):
    found = []
    for rows in (RESPONSES, None):
        model.zero_grad()
        if rows is None:
            for ids in RESPONSES:
                PlainRows(model, PROMPT).logprobs([ids]).sum().backward()
        else:
            prompt = SharedPrompt(model, PROMPT)
            prompt.logprobs(rows[:2]).sum().backward()
            prompt.logprobs(rows[2:]).sum().backward()
            prompt.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert (found[0] - found[1]).norm() < 1e-5 * found[1].norm()


def test_a_long_prompt_is_not_shared(model):
    assert isinstance(open_prompt(model, list(range(5, 5 + CONTEXT))), PlainRows)


@pytest.mark.filterwarnings("ignore")  # that the second is scored from the start
def test_another_model_of_the_class_decides_nothing(monkeypatch):
    monkeypatch.setattr(self_check, "_verdicts", {})
    name, options = MODELS["dynamic"]
    models = [AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **(SMALL | more))) for more in ({}, options)]
    for chosen in (models, models[::-1]):
        assert {type(open_rows(model.eval(), PROMPT, 1000)) for model in chosen} == {CachedRows, RescoredRows}
        self_check._verdicts.clear()
