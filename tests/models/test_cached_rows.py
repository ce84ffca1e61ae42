"""Log-probabilities of new tokens from cached keys and values equal those of whole rows, whatever the architecture."""

import os
import warnings
from functools import partial

import pytest
import torch

from implicit_prm.config import TextConfig
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models import cached_rows, self_check
from implicit_prm.models.cached_rows import CachedRows, RescoredRows, open_rows
from implicit_prm.models.loading import open_model, open_tokenizer
from implicit_prm.models.shared_prompt import PlainRows
from implicit_prm.models.source import ModelSource
from tests.models.test_forward import ARCHITECTURES
from tests.models.test_shared_prompt import PROMPT
from tests.models.test_shared_prompt import _model as small_model

# Of each step: the parents, out of order and repeated, and new tokens, of unequal numbers and possibly none.
STEPS = [
    ([0, 0, 0], [[20, 21, 22], [23], list(range(24, 37))]),
    ([2, 0, 1, 0], [[40], [41, 42, 43, 44], [], [45, 46]]),
    ([3, 1, 1, 0], [[50], [51, 52], [53], list(range(10, 48))]),  # the last row fills the context of 64 tokens
]


def _compare(rows, model, steps=STEPS):
    """The largest difference from plain rows, over new tokens and over the distributions of the next token."""
    whole, furthest = [[]], 0.0
    for parents, new in steps:
        rows.select(parents)
        found = rows.extend(new)
        whole = [[*whole[parent], *ids] for parent, ids in zip(parents, new, strict=True)]
        with torch.no_grad():
            plain = PlainRows(model, PROMPT).logprobs(whole)
        for row, (ids, logprobs) in enumerate(zip(new, found, strict=True)):
            assert logprobs.shape == (len(ids),)
            expected = plain[row, len(whole[row]) - len(ids) : len(whole[row])]
            furthest = max([furthest, *(logprobs - expected).abs().tolist()])
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPT, *whole[1]]])).logits[0, -1]
    return max(furthest, (rows.next_logprobs(1) - logits.log_softmax(-1)).abs().max().item())


@pytest.mark.parametrize("max_tokens", [6, 1000])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_plain_rows(name, max_tokens):
    model = small_model(name)
    rows = CachedRows(model, PROMPT, max_tokens)
    assert _compare(rows, model) < 1e-5
    assert rows.tokens == len(PROMPT) + sum(len(ids) for _, new in STEPS for ids in new)
    assert isinstance(open_rows(model, PROMPT, max_tokens), CachedRows)


def test_an_adapter_and_its_absence():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(small_model("llama"), LoraConfig(target_modules="all-linear", init_lora_weights=False))
    on = CachedRows(model, PROMPT, 100)
    assert _compare(on, model) < 1e-5
    with model.disable_adapter():
        off = CachedRows(model, PROMPT, 100)
        assert _compare(off, model) < 1e-5
    assert (on.next_logprobs(0) - off.next_logprobs(0)).abs().max() > 1e-3


def test_rows_that_continue_the_same_response_share_its_keys_and_values():
    rows = CachedRows(small_model("llama"), PROMPT, 100)
    rows.select([0, 0])
    rows.extend([[5], [6, 7]])
    first, second = rows._rows
    assert first.before is second.before
    assert second.keys_values.shape[2] == 2


@pytest.fixture
def no_verdicts(monkeypatch):
    """Every model is checked anew."""
    monkeypatch.setattr(self_check, "_verdicts", {})


MAMBA = {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "expand": 2, "chunk_size": 8}
ROPE = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}


@pytest.mark.usefixtures("no_verdicts")
@pytest.mark.parametrize(
    ("name", "options", "match"),
    [("mamba2", MAMBA, "Mamba2"), ("llama", {"rope_parameters": ROPE}, "rotary")],
    ids=["recurrent", "positions that change with the length"],
)
def test_other_models_are_scored_from_the_start_with_one_warning(name, options, match):
    model = small_model(name, **options)
    with pytest.warns(UserWarning, match=match):
        rows = open_rows(model, PROMPT, 1000)
    assert isinstance(rows, RescoredRows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(open_rows(model, PROMPT, 1000), RescoredRows)
    warnings.simplefilter("ignore")  # that they cannot share a prompt
    assert _compare(rows, model) < 1e-5
    assert rows.tokens > len(PROMPT) + sum(len(ids) for _, new in STEPS for ids in new)


@pytest.mark.usefixtures("no_verdicts")
def test_gradient_checkpointing_takes_no_cache():
    model = small_model("llama")
    model.gradient_checkpointing_enable()
    assert isinstance(open_rows(model.train(), PROMPT, 100), RescoredRows)
    assert isinstance(open_rows(model.eval(), PROMPT, 100), CachedRows)


def _wrong_end(monkeypatch):
    """Cached tokens are padded on the right, so that positions and mask are of other tokens."""
    original = cached_rows._gathered

    def gathered(rows, width):
        cache = original(rows, width)
        for layer in cache.layers:
            for row, piece in enumerate(rows):
                layer.keys[row] = layer.keys[row].roll(piece.length - width, 1)
        return cache

    monkeypatch.setattr(cached_rows, "_gathered", gathered)


def _another_row(monkeypatch):
    """The first new token is predicted from another row."""
    original = CachedRows._read

    def read(self, rows, ids):
        states = [self._rows[row].state for row in rows]
        for row, state in zip(rows, states[::-1], strict=True):
            self._rows[row] = cached_rows._Piece(self._rows[row].before, self._rows[row].keys_values, state, 0)
        return original(self, rows, ids)

    monkeypatch.setattr(CachedRows, "_read", read)


@pytest.mark.usefixtures("no_verdicts")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("break_it", [None, _wrong_end, _another_row])
def test_a_broken_implementation_is_caught_in_every_dtype(break_it, dtype, monkeypatch):
    model = small_model("mistral", sliding_window=4).to(dtype)
    if break_it is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert isinstance(open_rows(model, PROMPT, 100), CachedRows)
        return
    break_it(monkeypatch)
    with pytest.warns(UserWarning, match="Mistral"):
        assert isinstance(open_rows(model, PROMPT, 100), RescoredRows)


@pytest.mark.shared
@pytest.mark.usefixtures("no_verdicts")
@pytest.mark.parametrize("variable", ["IPR_SMOLLM2", "IPR_QWEN25"])
def test_real_models_in_bfloat16(variable):
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} names no model's folder")
    source = ModelSource.resolve(folder)
    encoder = Encoder(open_tokenizer(source), TextConfig())
    prompt_ids = encoder.prompt_ids("A train leaves at 9:40 and arrives at 13:05. How many minutes does it take?")
    difference, limit = self_check.measured(
        partial(cached_rows._difference, prompt_ids), open_model(source, "bfloat16")
    )
    assert difference < 0.05 * limit
