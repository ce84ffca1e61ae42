"""Responses that grow: the log-probabilities of new tokens, computed from the new tokens alone.

The keys and values of a response are kept as a chain of pieces, one for each extension. Rows that continue the same
response share its pieces, so a tree of responses takes the memory of its distinct tokens.

    rows = open_rows(model, prompt_ids, max_tokens=1024)     # one row, the empty response
    rows.select([0, 0])
    logprobs = rows.extend([[5, 6, 7], [8]])                 # of 3 tokens and of 1 token
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from implicit_prm.models.forward import (
    base_model,
    next_token_logprobs,
    pad_rows,
    project_states,
    recomputes_layers,
)
from implicit_prm.models.rotary import fixed_length
from implicit_prm.models.self_check import agrees
from implicit_prm.models.shared_prompt import Ids, PlainRows, pieces, response_logprobs
from implicit_prm.rewards.chunked_logprobs import LogitTransform, token_logprobs


@dataclass(eq=False)
class _Piece:
    """Tokens that the model has read, after those of `before`.

    Args:
        before: the tokens before these; None for the prompt.
        keys_values: [2 x layers, heads, tokens, width] keys and values of the tokens, layer by layer.
        state: [width] final hidden state at the last token, which predicts the next one.
        length: number of tokens since the start of the prompt.
    """

    before: _Piece | None
    keys_values: Tensor
    state: Tensor
    length: int


class CachedRows:
    """Rows whose keys and values are kept. At first there is one row, the prompt.

    Args:
        model: the causal LM to call, which may be wrapped.
        prompt_ids: tokens of the prompt, at least one.
        max_tokens: new tokens in one forward pass, padding included.
        core: the model inside the wrapper.

    Raises:
        NotImplementedError: the model has a state other than keys and values, or its keys depend on the length.
    """

    @torch.no_grad()
    def __init__(self, model: Any, prompt_ids: Ids, max_tokens: int, core: Any = None) -> None:
        self._model, self._core, self._max_tokens = model, core or model, max_tokens
        self._base = base_model(self._core)
        _check_cacheable(self._base)
        cache, ids = DynamicCache(), torch.tensor([list(prompt_ids)], device=self._base.device)
        last = torch.tensor([0]), torch.tensor([-1])
        inputs = {"input_ids": ids, "past_key_values": cache, "use_cache": True}
        states, _ = project_states(model, last, lambda states, *_: states, self._core, **inputs)
        if cache.get_seq_length() != len(prompt_ids):
            raise NotImplementedError(f"{type(self._base).__name__} keeps no keys and values")
        self.tokens = len(prompt_ids)  # read by the model, without padding
        self._rows = [_Piece(None, _keys_values(cache, 0)[:, 0], states[0], len(prompt_ids))]

    def select(self, indices: Sequence[int]) -> None:
        """Replace the rows by those at `indices`, which may repeat."""
        self._rows = [self._rows[index] for index in indices]

    @torch.no_grad()
    def extend(self, ids: Sequence[Ids]) -> list[Tensor]:
        """Append tokens to every row; to none of them if it fails.

        Args:
            ids: new tokens of each row, possibly none.

        Returns:
            Log-probabilities of the new tokens of each row: [T] float32 in nats, on the CPU.
        """
        grown, found = list(self._rows), [torch.zeros(0) for _ in ids]
        growing = [row for row, new in enumerate(ids) if new]
        for piece in pieces([len(ids[row]) for row in growing], self._max_tokens):
            rows = [growing[place] for place in piece]
            for row, (read, logprobs) in zip(rows, self._read(rows, [ids[row] for row in rows]), strict=True):
                grown[row], found[row] = read, logprobs
        self._rows = grown
        return found

    @torch.no_grad()
    def next_logprobs(self, row: int) -> Tensor:
        """[V] float32 log-probabilities of the next token of a row, in nats, on the CPU."""
        return next_token_logprobs(self._core, self._rows[row].state[None])[0].cpu()

    def _read(self, rows: Sequence[int], ids: Sequence[Ids]) -> list[tuple[_Piece, Tensor]]:
        """Run new tokens of some rows; return what was read in each row, and its log-probabilities."""
        device, before = self._base.device, [self._rows[row] for row in rows]
        batch = {name: tensor.to(device) for name, tensor in pad_rows([([], one) for one in ids], 0).items()}
        wanted, targets = batch["completion_mask"], batch["input_ids"][batch["completion_mask"]]
        counts = wanted.sum(1, keepdim=True)
        lengths = torch.tensor([[piece.length] for piece in before], device=device)
        width = int(lengths.max())
        # Cached tokens are padded on the left and new ones on the right: sliding windows need consecutive tokens.
        cached = torch.arange(width, device=device) >= width - lengths
        places = torch.arange(wanted.shape[1], device=device)
        cache = _gathered(before, width)
        inputs = {
            "input_ids": batch["input_ids"],
            "attention_mask": torch.cat([cached, wanted], 1).long(),
            "position_ids": lengths + torch.minimum(places, counts - 1),  # of padding as well below the context length
            "past_key_values": cache,
            "use_cache": True,
        }
        sizes = [len(one) for one in ids]
        last: list[Tensor] = []

        def project(states: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform) -> Tensor:
            split = states.split(sizes)
            last.extend(one[-1] for one in split)
            shifted = [torch.cat([piece.state[None], one[:-1]]) for piece, one in zip(before, split, strict=True)]
            return token_logprobs(torch.cat(shifted), weight, targets, bias, transform)

        logprobs, _ = project_states(self._model, wanted, project, self._core, **inputs)
        self.tokens += sum(sizes)
        new = _keys_values(cache, width)
        read = [
            _Piece(piece, new[:, row, :, :size].clone(), last[row].clone(), piece.length + size)
            for row, (piece, size) in enumerate(zip(before, sizes, strict=True))
        ]
        return list(zip(read, logprobs.cpu().split(sizes), strict=True))


class RescoredRows:
    """The same interface for models that cannot be cached: a row is scored from its start whenever it grows.

    Args:
        model: the causal LM to call, which may be wrapped.
        prompt_ids: tokens of the prompt.
        max_tokens: in one forward pass, padding included.
        core: the model inside the wrapper.
    """

    def __init__(self, model: Any, prompt_ids: Ids, max_tokens: int, core: Any = None) -> None:
        self._model, self._core, self._max_tokens = model, core or model, max_tokens
        self._prompt, self._rows = list(prompt_ids), [list[int]()]
        self.tokens = 0

    def select(self, indices: Sequence[int]) -> None:
        """Replace the rows by those at `indices`, which may repeat."""
        self._rows = [self._rows[index] for index in indices]

    def extend(self, ids: Sequence[Ids]) -> list[Tensor]:
        """As `CachedRows.extend`."""
        grown = [[*row, *new] for row, new in zip(self._rows, ids, strict=True)]
        growing = [row for row, new in zip(grown, ids, strict=True) if new]
        scored = iter(response_logprobs(self._model, self._prompt, growing, self._max_tokens, self._core))
        self._rows = grown
        self.tokens += sum(len(self._prompt) + len(row) for row in growing)
        return [next(scored)[-len(new) :] if new else torch.zeros(0) for new in ids]

    @torch.no_grad()
    def next_logprobs(self, row: int) -> Tensor:
        """[V] float32 log-probabilities of the next token of a row, in nats, on the CPU."""
        ids = torch.tensor([[*self._prompt, *self._rows[row]]], device=base_model(self._core).device)
        last = torch.tensor([0]), torch.tensor([-1])
        inputs = {"input_ids": ids, "use_cache": False}
        states, _ = project_states(self._model, last, lambda states, *_: states, self._core, **inputs)
        self.tokens += ids.shape[1]
        return next_token_logprobs(self._core, states)[0].cpu()


def open_rows(model: Any, prompt_ids: Ids, max_tokens: int, core: Any = None) -> CachedRows | RescoredRows:
    """Encode a prompt: `CachedRows` if the model supports them, else `RescoredRows`.

    The first time, the two are compared on a few tokens of this prompt, and a warning is given if they differ.

    Args:
        model: the causal LM to call, which may be wrapped.
        prompt_ids: tokens of the prompt.
        max_tokens: new tokens in one forward pass, padding included.
        core: the model inside the wrapper.

    Returns:
        One row, the empty response.
    """
    difference = partial(_difference, prompt_ids)
    fallback = "every extension is scored from the start of the response"
    cached = not recomputes_layers(core or model)
    cached = cached and agrees("extend cached responses", fallback, difference, model, core)
    return (CachedRows if cached else RescoredRows)(model, prompt_ids, max_tokens, core)


def _check_cacheable(base: Any) -> None:
    """Raises NotImplementedError if keys and values of read tokens are not all that later tokens need."""
    layers = DynamicCache(config=base.config).layers
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        raise NotImplementedError(f"{type(base).__name__} has a state other than keys and values")
    if fixed_length(base) is not None:
        raise NotImplementedError("its rotary embeddings change with the length")


def _keys_values(cache: Any, start: int) -> Tensor:
    """[2 x layers, rows, heads, tokens, width] keys and values of the tokens from `start` on."""
    return torch.stack([states[:, :, start:] for layer in cache.layers for states in (layer.keys, layer.values)])


def _gathered(rows: Sequence[_Piece], width: int) -> DynamicCache:
    """A cache of `width` tokens, padded on the left."""
    layers, heads, _, size = rows[0].keys_values.shape
    gathered = rows[0].keys_values.new_zeros(layers, len(rows), heads, width, size)
    for row, last in enumerate(rows):
        piece: _Piece | None = last
        while piece is not None:
            end = width - last.length + piece.length
            gathered[:, row, :, end - piece.keys_values.shape[2] : end] = piece.keys_values
            piece = piece.before
    cache = DynamicCache()
    for keys, values in zip(gathered[::2], gathered[1::2], strict=True):
        # A layer with all tokens for sliding windows, too: the mask hides those outside of the window.
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def _difference(prompt_ids: Ids, model: Any, core: Any) -> float:
    """Root mean square difference of cached rows from plain rows, in nats, on the first tokens of this prompt."""
    prompt = list(prompt_ids[:64])
    first, second = [prompt[:5], prompt[1:13]], [prompt[2:9], prompt[:2], prompt[4:6]]
    parents = [1, 0, 1]
    rows = CachedRows(model, prompt, 64, core)
    rows.select([0, 0])
    rows.extend(first)
    rows.select(parents)
    found = rows.extend(second)
    whole = [[*first[parent], *new] for parent, new in zip(parents, second, strict=True)]
    plain = PlainRows(model, prompt, core).logprobs(whole)
    differences = [
        logprobs - row[len(ids) - len(logprobs) : len(ids)].cpu()
        for logprobs, row, ids in zip(found, plain, whole, strict=True)
    ]
    return torch.cat(differences).square().mean().sqrt().item()
