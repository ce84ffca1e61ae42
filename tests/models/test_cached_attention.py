"""Attention to cached keys without a mask: which models and implementations it applies to.

Its numbers are tested with those of the shared prompt.
"""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from implicit_prm.models.cached_attention import without_mask
from tests.models.test_forward import SMALL


def _model(name, **options):
    config = AutoConfig.for_model(name, **SMALL)
    return AutoModelForCausalLM.from_config(config, **options).eval()


def test_the_implementation_is_itself_again_even_after_an_error():
    model = _model("llama")
    with without_mask(model):
        assert model.config._attn_implementation != "sdpa"
    with pytest.raises(IndexError), torch.no_grad(), without_mask(model):
        model(torch.tensor([[SMALL["vocab_size"]]]))
    assert model.config._attn_implementation == "sdpa"


def test_other_implementations_are_left_alone():
    model = _model("llama", attn_implementation="eager")
    with without_mask(model):
        assert model.config._attn_implementation == "eager"


def test_models_that_do_not_look_up_their_attention_are_left_alone():
    """Falcon compares the name with "sdpa" in its forward pass."""
    config = AutoConfig.for_model("falcon", **{name: value for name, value in SMALL.items() if name != "head_dim"})
    model = AutoModelForCausalLM.from_config(config)
    with without_mask(model):
        assert model.config._attn_implementation == "sdpa"


def test_a_padding_mask_is_kept():
    model = _model("llama")
    ids, attention = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]]), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    with torch.no_grad():
        expected = model(ids, attention_mask=attention).logits
        with without_mask(model):
            found = model(ids, attention_mask=attention).logits
    torch.testing.assert_close(found, expected)
