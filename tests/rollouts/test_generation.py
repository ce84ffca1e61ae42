"""Sampling from a cache: the model's own distribution, encoding each context once, dropping finished rows."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, TemperatureLogitsWarper

from implicit_prm.rollouts.generation import draw, generate
from implicit_prm.types import ImplicitPRMError
from tests.models.test_forward import ARCHITECTURES, SMALL

CONTEXTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [20, 21, 22], [30]]
STATES = {
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "expand": 2, "chunk_size": 8},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"], "num_experts": 0, "linear_num_value_heads": 2}
    | {"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
}


def _model(name="llama"):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **(SMALL | (ARCHITECTURES | STATES)[name]))
    return AutoModelForCausalLM.from_config(config).eval()


def _numbers(rows, steps, seed=0):
    return torch.rand(rows, steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", [*ARCHITECTURES, *STATES])
def test_logits_are_those_of_the_whole_row(name):
    """At a temperature near zero every token is the most probable one, whatever the row's place and padding."""
    model, coldest = _model(name), [TemperatureLogitsWarper(1e-6)]
    rows = generate(model, CONTEXTS, _numbers(6, 20), {999}, coldest)
    for place, row in enumerate(rows):
        context = CONTEXTS[place // 2]
        with torch.no_grad():
            logits = model(torch.tensor([context + row])).logits[0, len(context) - 1 : -1]
        assert row == logits.argmax(-1).tolist()


def test_rows_end_where_they_should_and_do_not_depend_on_the_batch():
    model, ends = _model(), {3, 4, 7, 9, 11}
    numbers = _numbers(30, 40)
    rows = generate(model, CONTEXTS, numbers, ends)
    assert 40 in map(len, rows)
    assert len({len(row) for row in rows}) > 5
    assert all(not ends & set(row[:-1]) for row in rows)
    assert all(row[-1] in ends for row in rows if len(row) < 40)
    alone = [generate(model, CONTEXTS[2:], numbers[place : place + 1], ends) for place in (20, 29)]
    assert alone == [[rows[20]], [rows[29]]]


def test_tokens_follow_the_distribution_of_the_model():
    """Each token is the one at which the cumulative probability passes the row's number."""
    model, numbers = _model(), _numbers(4, 12)
    for row, chosen in zip(generate(model, CONTEXTS[:1], numbers, {999}), numbers, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([CONTEXTS[0] + row])).logits[0, len(CONTEXTS[0]) - 1 : -1]
        above = logits.double().softmax(-1).cumsum(-1)
        assert torch.searchsorted(above, chosen[:, None])[:, 0].tolist() == row


@pytest.mark.parametrize("vocabulary", [3, 256, 1000])
def test_shares_of_evenly_spaced_numbers_are_the_probabilities(vocabulary):
    torch.manual_seed(0)
    logits = 3 * torch.randn(vocabulary)
    logits[::3] = -torch.inf  # as top-p leaves them
    numbers = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    shares = torch.bincount(draw(logits.expand(20_000, -1), numbers), minlength=vocabulary) / 20_000
    torch.testing.assert_close(shares, logits.softmax(-1), atol=1.1e-4, rtol=0)
    assert not shares[::3].any()
    extremes = draw(logits.expand(2, -1), torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert logits[extremes].isfinite().all()


def test_a_context_is_encoded_once_and_finished_rows_leave(monkeypatch):
    model, shapes = _model(), []
    original = model.forward

    def forward(input_ids, attention_mask, position_ids, past_key_values, use_cache, logits_to_keep):
        shapes.append(tuple(input_ids.shape))
        return original(input_ids, attention_mask, position_ids, past_key_values, logits_to_keep=logits_to_keep)

    monkeypatch.setattr(model, "forward", forward)
    rows = generate(model, CONTEXTS, _numbers(60, 40), {3, 4, 7, 9, 11})
    assert shapes[0] == (3, 10)
    assert shapes[1] == (60, 1)
    assert shapes[-1][0] < 20
    for step, (held, _) in enumerate(shapes[1:], 1):
        assert sum(len(row) > step for row in rows) <= held


def test_a_model_without_a_cache_is_refused(monkeypatch):
    model = _model()
    monkeypatch.setattr(model, "forward", lambda input_ids: None)
    with pytest.raises(ImplicitPRMError, match="Llama"):
        generate(model, CONTEXTS, _numbers(3, 2), {3})
