"""Log-probabilities read from the swapped head equal those of the model's own logits, whatever the architecture."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from implicit_prm.models import forward
from implicit_prm.types import ImplicitPRMError
from tests.conftest import tiny_model

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 8},
    "gemma2": {"sliding_window": 8, "final_logit_softcapping": 3.0},
    "gemma3_text": {"sliding_window": 8},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "phi3": {},
    "olmo2": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "gpt_neox": {},
}


def _batch(vocabulary=61):
    rows = [([5, 6, 7], [8, 9, 10, 11, 12]), ([5, 6, 7, 8, 9, 10], [11]), ([3], [4, 5, 6, 7, 8, 9, 10, 11, 12, 13])]
    return forward.pad_rows(rows, 0)


def _from_logits(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    padded = torch.nn.functional.pad(logprobs, (1, 0))
    return padded.masked_fill(~batch["completion_mask"], 0.0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_the_logits_of_every_architecture(name):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **(SMALL | ARCHITECTURES[name]))
    model = AutoModelForCausalLM.from_config(config).eval()
    batch = _batch()
    with torch.no_grad():
        ours, theirs = forward.completion_logprobs(model, **batch), _from_logits(model, batch)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert ours[batch["completion_mask"]].std() > 0.1  # the comparison is not of constants


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "gpt2"])
def test_differences_of_two_logits_are_those_of_the_model(name):
    """Of soft-capped and scaled logits too, at positions that are named one by one, in any order."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **(SMALL | ARCHITECTURES[name]))).eval()
    inputs = {key: value for key, value in _batch().items() if key != "completion_mask"}
    wanted = torch.tensor([2, 0, 0, 1]), torch.tensor([5, 1, 7, 0])
    logits = model(**inputs).logits[wanted]
    found, _ = forward.logit_differences(model, wanted, (7, 3), **inputs)
    torch.testing.assert_close(found, logits[:, 7] - logits[:, 3], atol=1e-5, rtol=1e-5)
    assert found.std() > 0.1


def test_gradients_equal_those_through_the_logits(tokenizer):
    model, batch = tiny_model(tokenizer), _batch()
    weights = torch.linspace(-1, 1, batch["input_ids"].shape[1])
    grads = []
    for logprobs in (forward.completion_logprobs, lambda m, **b: _from_logits(m, b)):
        model.zero_grad()
        (logprobs(model, **batch) * weights).sum().backward()
        grads.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-5, rtol=1e-4, msg=name)


def test_the_head_is_itself_again_afterwards_even_after_an_error(tokenizer):
    model, batch = tiny_model(tokenizer), _batch()
    before = model(input_ids=batch["input_ids"]).logits
    forward.completion_logprobs(model, **batch)
    with pytest.raises((IndexError, RuntimeError)):
        forward.completion_logprobs(model, **{**batch, "input_ids": batch["input_ids"] + 10_000})
    torch.testing.assert_close(model(input_ids=batch["input_ids"]).logits, before)


def test_autocast_and_its_backward_pass(tokenizer):
    model, batch = tiny_model(tokenizer), _batch()
    exact = forward.completion_logprobs(model, **batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = forward.completion_logprobs(model, **batch)
    rough.sum().backward()
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.3, rtol=0.1)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_padding_does_not_change_a_row(tokenizer):
    model = tiny_model(tokenizer)
    rows = [([5, 6, 7], [8, 9]), ([5], [6, 7, 8, 9, 10, 11])]
    together = forward.completion_logprobs(model, **forward.pad_rows(rows, 0))
    alone = forward.completion_logprobs(model, **forward.pad_rows(rows[:1], 0))
    torch.testing.assert_close(together[0, :5], alone[0])


def test_a_lora_on_the_head_is_refused(tokenizer):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model(tokenizer), LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head"]))
    with pytest.raises(ImplicitPRMError, match="target_modules"):
        forward.completion_logprobs(model, **_batch())


def test_dropout_is_switched_off(tokenizer):
    model = torch.nn.Sequential(torch.nn.Dropout(0.5))
    forward.disable_dropout(model)
    assert model.train()(torch.ones(100)).eq(1).all()
