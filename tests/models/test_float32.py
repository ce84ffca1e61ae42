"""A half-precision model in float32 computes what its converted copy does, and is unchanged afterwards."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from implicit_prm.models.float32 import in_float32
from tests.models.test_forward import ARCHITECTURES, SMALL

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def _model(name):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **(SMALL | ARCHITECTURES[name]))
    return AutoModelForCausalLM.from_config(config).eval().to(torch.bfloat16)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_a_converted_copy(name):
    model = _model(name)
    with in_float32(model):
        found = model(input_ids=IDS).logits
    assert found.dtype == torch.float32
    with torch.no_grad():
        expected = copy.deepcopy(model).float()(input_ids=IDS).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_model_is_unchanged_even_after_an_error():
    model = _model("llama")
    weights = dict(model.named_parameters())
    with torch.no_grad():
        before = model(input_ids=IDS).logits
    with pytest.raises(IndexError), in_float32(model):
        model(input_ids=IDS + 10_000)
    handle = model.model.layers[1].mlp.down_proj.register_forward_hook(_fail)
    with pytest.raises(RuntimeError, match="in a layer"), in_float32(model):
        model(input_ids=IDS)
    handle.remove()
    assert all(weight is weights[name] for name, weight in model.named_parameters())
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, before)


def _fail(*_):
    raise RuntimeError("in a layer")
