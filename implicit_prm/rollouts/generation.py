"""Sampling from a causal LM: a context is encoded once for all of its rows, and finished rows leave the batch."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from implicit_prm.types import ImplicitPRMError

_ROOM = 64  # tokens by which the cache grows
_BLOCK = 256  # entries of the vocabulary that are summed at once


@torch.inference_mode()
def generate(
    model: Any,
    contexts: Sequence[Sequence[int]],
    numbers: Tensor,
    ends: set[int],
    warpers: Sequence[Callable[[Any, Tensor], Tensor]] = (),
) -> list[list[int]]:
    """Sample continuations of the contexts, as many of each.

    A row depends on its context and its random numbers only (but for rounding: the last bits of a row's logits vary
    with the batch).

    Args:
        model: a causal LM.
        contexts: token ids.
        numbers: [rows, steps] float64, uniform in [0, 1): one for each token. The rows of a context are consecutive.
        ends: tokens that end a row.
        warpers: logits processors of transformers that need no previous tokens: temperature and top-p.

    Returns:
        The tokens of each row, with its end. A row without an end has `steps` tokens.

    Raises:
        ImplicitPRMError: the model has no cache of keys and values.
    """
    batch = DecodingRows(model, contexts)
    numbers = numbers.to(model.device)
    rows = torch.arange(len(numbers), device=model.device)
    batch.keep(rows // (len(numbers) // len(contexts)))
    stops = torch.tensor(sorted(ends), device=model.device)
    unfinished = torch.ones_like(rows, dtype=torch.bool)
    found: list[list[int]] = [[] for _ in numbers]
    for step in range(numbers.shape[1]):
        logits = batch.logits
        for warper in warpers:
            logits = warper(None, logits)
        tokens = draw(logits, numbers[rows, step])
        for row, token, wanted in zip(rows.tolist(), tokens.tolist(), unfinished.tolist(), strict=True):
            if wanted:
                found[row].append(token)
        unfinished &= ~torch.isin(tokens, stops)
        left = int(unfinished.sum())
        if left == 0 or step + 1 == numbers.shape[1]:
            break
        if left <= 7 / 8 * len(rows):  # removing rows copies the cache, so not for every row that ends
            batch.keep(unfinished.nonzero()[:, 0])
            rows, tokens, unfinished = rows[unfinished], tokens[unfinished], unfinished[unfinished]
        batch.append(tokens)
    return found


def draw(logits: Tensor, numbers: Tensor) -> Tensor:
    """Invert the cumulative distribution of each row, first over blocks of the vocabulary, then within one.

    For a large vocabulary this is faster than `torch.multinomial`, which draws a number for each entry.

    Args:
        logits: [rows, vocabulary] float32.
        numbers: [rows] float64, uniform in [0, 1).

    Returns:
        [rows] int64, the drawn tokens.
    """
    blocks = F.pad(logits.softmax(-1), (0, -logits.shape[-1] % _BLOCK)).unflatten(-1, (-1, _BLOCK))
    sums = F.pad(blocks.sum(-1).double().cumsum(-1), (1, 0))
    target = numbers[:, None] * sums[:, -1:]
    block = torch.searchsorted(sums[:, 1:].contiguous(), target, right=True)
    start, end = sums.gather(1, block), sums.gather(1, block + 1)
    within = blocks[torch.arange(len(blocks), device=blocks.device), block[:, 0]].double().cumsum(-1)
    place = torch.searchsorted(within, (target - start) / (end - start) * within[:, -1:], right=True)
    return (block * _BLOCK + place)[:, 0]


class DecodingRows:
    """Rows of tokens, padded on the left, with their cache and the logits of the next token.

    Args:
        model: a causal LM.
        contexts: the first token ids of each row.
        within: opens the context that the model runs in, such as `disable_adapter` of a PEFT model.

    Attributes:
        logits: [rows, vocabulary] float32, of the next token of each row.
        can_wait: whether a row may wait while others get a token. States that every token changes cannot.

    Raises:
        ImplicitPRMError: the model has no cache of keys and values.
    """

    def __init__(
        self,
        model: Any,
        contexts: Sequence[Sequence[int]],
        within: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self._model, self._accepted = model, set(inspect.signature(model.forward).parameters)
        self._within = within
        self._cache_name = next((name for name in ("past_key_values", "cache_params") if name in self._accepted), None)
        if self._cache_name is None:
            raise ImplicitPRMError(f"{type(model).__name__} has no cache of keys and values; sample it with a server")
        self._cache: Any = DynamicCache(config=model.config)
        layers = self._cache.layers
        self._cache.layers = [_GrowingLayer() if type(layer) is DynamicLayer else layer for layer in layers]
        width = max(map(len, contexts))
        ids = torch.tensor([[0] * (width - len(one)) + list(one) for one in contexts], device=model.device)
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in contexts], device=model.device)
        self._attention = mask
        self.logits = self._forward(ids, (mask.cumsum(-1) - 1).clamp(min=0))
        self.can_wait = all(type(layer) is _GrowingLayer for layer in self._cache.layers)

    def keep(self, rows: Tensor) -> None:
        """Replace the rows by those at these places, which may repeat."""
        self._cache.reorder_cache(rows)
        self._attention, self.logits = self._attention[rows], self.logits[rows]

    def append(self, tokens: Tensor, waiting: Tensor | None = None) -> None:
        """Append a token to each row.

        Args:
            tokens: [rows] int64.
            waiting: [rows] bool, rows that get no token now, if `can_wait`; their entries of `tokens` are not read.
        """
        seen = torch.ones_like(tokens) if waiting is None else (~waiting).long()
        self._attention = torch.cat([self._attention, seen[:, None]], dim=-1)
        logits = self._forward(tokens[:, None], self._attention.sum(-1, keepdim=True) - 1)
        self.logits = logits if waiting is None else torch.where(waiting[:, None], self.logits, logits)

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """[rows, vocabulary] float32 logits after the last token."""
        inputs = {
            "input_ids": ids,
            "attention_mask": self._attention,
            "position_ids": positions,
            self._cache_name: self._cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        with self._within():
            output = self._model(**{name: value for name, value in inputs.items() if name in self._accepted})
        return output.logits[:, -1].float()


class _GrowingLayer(DynamicLayer):
    """Keys and values with room after them, so that a token does not copy those of all tokens before it."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = [key_states[:, :, :0], value_states[:, :, :0]]
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        missing = end - self._buffers[0].shape[2]
        if missing > 0:
            self._buffers = [F.pad(buffer, (0, 0, 0, missing + _ROOM)) for buffer in self._buffers]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        return self._read(end)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._buffers = [buffer.index_select(0, beam_idx) for buffer in self._buffers]
        self._read(self.get_seq_length())

    def _read(self, length: int) -> tuple[Tensor, Tensor]:
        keys, values = self.keys, self.values = [buffer[:, :, :length] for buffer in self._buffers]
        return keys, values
