"""An adapter and a trained head on a value-head model, and their merge."""

import pytest
import torch

from implicit_prm import ImplicitPRMError
from implicit_prm.baselines.lora import merged, with_lora
from implicit_prm.config import LoraConfig
from implicit_prm.models import loading
from implicit_prm.models.source import ModelSource


def _model(folder, dtype="float32"):
    return loading.open_model(ModelSource.resolve(folder), dtype, head="new_value")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_trained_is_float32_and_includes_the_head(dtype, tiny_folder):
    adapted = with_lora(_model(tiny_folder, dtype), LoraConfig(r=4), value_head=True)
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    assert any(name.endswith("score.modules_to_save.default.weight") for name in trained)
    assert not any("score" in name and "lora_" in name for name in trained)
    adapted(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert all(weight.grad is not None for weight in trained.values())


def test_the_merged_model_is_plain_and_equal(tiny_folder):
    torch.manual_seed(0)
    adapted = with_lora(_model(tiny_folder), LoraConfig(r=4), value_head=True)
    for name, weight in adapted.named_parameters():
        if weight.requires_grad and "lora_A" not in name:
            torch.nn.init.normal_(weight, std=0.3)
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        before = adapted(ids).logits
        model = merged(adapted)
        after = model(ids).logits
    assert type(model).__name__.endswith("ForTokenClassification")
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def test_layers_that_do_not_exist_are_refused(tiny_folder):
    with pytest.raises(ImplicitPRMError, match=r"model\.lora"):
        with_lora(_model(tiny_folder), LoraConfig(target_modules=["nothing"]), value_head=True)
