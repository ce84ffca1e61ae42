"""Log-probabilities of all responses to one prompt, which is encoded only once.

The prompt's keys and values (of all but its last token) are computed once and read by every response: K responses cost
P + K x R tokens instead of K x (P + R). Training is exact, too. Responses run in pieces against detached copies of the
keys and values, each piece with its own backward pass; the gradients that accumulate at the copies are propagated
through the prompt once, at the end. Memory is bounded by the largest piece, as with gradient checkpointing, but nothing
is computed twice.

    with torch.no_grad():
        logprobs = response_logprobs(model, prompt_ids, responses, max_tokens=4096)

    prompt = open_prompt(model, prompt_ids)
    lengths = [len(response) for response in responses]
    for piece in pieces(lengths, max_tokens, prompt.row_overhead):
        loss_of(prompt.logprobs([responses[place] for place in piece])).backward()
    prompt.backward()
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from implicit_prm.models.cached_attention import without_mask
from implicit_prm.models.forward import base_model, completion_logprobs, pad_rows, recomputes_layers, target_logprobs
from implicit_prm.models.rotary import fixed_length
from implicit_prm.models.self_check import agrees

Ids = Sequence[int]
# Elements of the largest attention mask; 84 MB in float32.
_LARGEST_MASK = 2**24


class SharedPrompt:
    """A prompt whose keys and values are computed once.

    Args:
        model: the causal LM to call, which may be wrapped.
        prompt_ids: at least two tokens. The last one is run with every response, whose first token it predicts.
        core: the model inside the wrapper.
        largest_mask: elements of the largest attention mask that responses may use.
    """

    row_overhead = 1  # the prompt's last token

    def __init__(self, model: Any, prompt_ids: Ids, core: Any = None, largest_mask: int = _LARGEST_MASK) -> None:
        self._prompt_ids, self._length, self._largest_mask = prompt_ids, len(prompt_ids), largest_mask
        self._model, self._core, self._last = model, core or model, prompt_ids[-1]
        self._device = base_model(self._core).device
        self._embedding = _trained_embedding(base_model(self._core))
        self._embedded: list[tuple[Tensor, Tensor]] = []
        ids = torch.tensor([prompt_ids[:-1]], device=self._device)
        nothing = torch.zeros_like(ids, dtype=torch.bool)
        _, output = target_logprobs(model, nothing, ids[nothing], self._core, **self._embed(ids), use_cache=True)
        self._cache: Any = output.past_key_values
        if not _can_be_shared(self._cache):
            raise NotImplementedError(f"{type(base_model(self._core)).__name__} has a state other than keys and values")
        self._anchor: Tensor = output.logits
        self._computed = [tensor for layer in self._cache.layers for tensor in (layer.keys, layer.values)]
        self._leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self._computed]

    def logprobs(self, responses: Sequence[Ids]) -> Tensor:
        """[K, T] float32 log-probabilities of the responses' tokens in nats, zero after the end of each."""
        if not _has_fixed_positions(self._core, self._length + max(map(len, responses), default=0)):
            return PlainRows(self._model, self._prompt_ids, self._core).logprobs(responses)
        rows = [[self._last, *ids[:-1]] for ids in responses] or [[self._last]]
        input_ids = _padded(rows, self._device)
        targets, wanted = _targets(responses, input_ids)
        inputs = {**self._embed(input_ids), "past_key_values": self._fork(len(rows)), "use_cache": True}
        # No padding mask is needed: attention is causal, and the padding comes after the response.
        with self._attention(*input_ids.shape):
            found, _ = target_logprobs(self._model, wanted, targets, self._core, **inputs)
        return torch.zeros_like(wanted, dtype=torch.float32).masked_scatter(wanted, found)[: len(responses)]

    def backward(self) -> None:
        """Propagate the gradients that the responses left at the keys and values through the prompt."""
        # The logits, with gradient zero, make FSDP gather the weights. They were computed last, so they come first.
        pairs = [(self._anchor, torch.zeros_like(self._anchor))]
        pairs += [(c, leaf.grad) for c, leaf in zip(self._computed, self._leaves, strict=True) if leaf.grad is not None]
        pairs = [(tensor, grad) for tensor, grad in pairs if tensor.requires_grad]
        if pairs:
            torch.autograd.backward([tensor for tensor, _ in pairs], [grad for _, grad in pairs])
        embedded = [(ids.flatten(), leaf.grad.flatten(0, 1)) for ids, leaf in self._embedded if leaf.grad is not None]
        if embedded and self._embedding is not None:
            self._embedding(torch.cat([ids for ids, _ in embedded])).backward(torch.cat([grad for _, grad in embedded]))

    def _attention(self, rows: int, width: int) -> contextlib.AbstractContextManager[None]:
        """Attention with a mask if it is faster than that of plain rows, for responses shorter than the prompt."""
        elements = rows * width * (self._length + width)
        # Kernels on a CPU skip what is masked in blocks of 512 keys.
        masked = width < max(self._length, 512) and elements <= self._largest_mask
        return contextlib.nullcontext() if masked else without_mask(base_model(self._core))

    def _embed(self, ids: Tensor) -> dict[str, Tensor]:
        """Arguments of the model's forward for [B, T] tokens.

        An embedding's gradient has the size of the vocabulary, however few the tokens. So each piece keeps the gradient
        of its own vectors, and all are propagated through the embedding once, at the end.
        """
        if self._embedding is None or not torch.is_grad_enabled():
            return {"input_ids": ids}
        leaf = self._embedding(ids).detach().requires_grad_()
        self._embedded.append((ids, leaf))
        return {"inputs_embeds": leaf}

    def _fork(self, rows: int) -> Any:
        """A cache of the prompt's keys and values for `rows` responses."""
        fork = copy.copy(self._cache)
        fork.layers = []
        for layer, keys, values in zip(self._cache.layers, self._leaves[::2], self._leaves[1::2], strict=True):
            layer = copy.copy(layer)
            layer.keys, layer.values = (tensor.expand(rows, -1, -1, -1) for tensor in (keys, values))
            layer.update = partial(_read_once, layer)
            fork.layers.append(layer)
        return fork


class PlainRows:
    """The same interface with a row of prompt and response for each response, for models that cannot share a prompt.

    Args:
        model: the causal LM to call, which may be wrapped.
        prompt_ids: tokens of the prompt.
        core: the model inside the wrapper.
    """

    def __init__(self, model: Any, prompt_ids: Ids, core: Any = None) -> None:
        self._model, self._core, self._prompt = model, core or model, list(prompt_ids)
        self.row_overhead = len(self._prompt)

    def logprobs(self, responses: Sequence[Ids]) -> Tensor:
        """[K, T] float32 log-probabilities of the responses' tokens in nats, zero after the end of each."""
        batch = pad_rows([(self._prompt, list(ids)) for ids in responses] or [(self._prompt, [])], 0)
        batch = {name: tensor.to(base_model(self._core).device) for name, tensor in batch.items()}
        logprobs = completion_logprobs(self._model, **batch, core=self._core)
        return logprobs[: len(responses), len(self._prompt) :]

    def backward(self) -> None:
        """Does nothing: the responses' backward passes reach all weights."""


def open_prompt(model: Any, prompt_ids: Ids, core: Any = None) -> SharedPrompt | PlainRows:
    """Encode a prompt: a `SharedPrompt` if the model supports it, else `PlainRows`.

    The first time, the two are compared on a few tokens of this prompt, and a warning is given if they differ. Gradient
    checkpointing recomputes layers without a cache, so it needs plain rows.

    Args:
        model: the causal LM to call, which may be wrapped.
        prompt_ids: tokens of the prompt.
        core: the model inside the wrapper.

    Returns:
        The encoded prompt.
    """
    base = base_model(core or model)
    plain = len(prompt_ids) < 2 or recomputes_layers(base) or not _has_fixed_positions(base, len(prompt_ids))
    if plain or not _shares(model, prompt_ids, core):
        return PlainRows(model, prompt_ids, core)
    return SharedPrompt(model, prompt_ids, core)


def pieces(lengths: Sequence[int], max_tokens: int, row_overhead: int = 0) -> list[list[int]]:
    """Split responses into pieces of similar lengths, for one forward pass each.

    The longest come first, so that a lack of memory shows at once and later pieces reuse the memory of earlier ones.

    Args:
        lengths: tokens of each response.
        max_tokens: limit for a piece, padding included. A longer response is a piece of its own.
        row_overhead: tokens that every row has besides the response.

    Returns:
        Indices of responses, piece by piece.
    """
    cut: list[list[int]] = []
    width = 0
    for place in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if cut and (len(cut[-1]) + 1) * width <= max_tokens:
            cut[-1].append(place)
        else:
            cut.append([place])
            width = lengths[place] + row_overhead
    return cut


@torch.no_grad()
def response_logprobs(
    model: Any, prompt_ids: Ids, responses: Sequence[Ids], max_tokens: int, core: Any = None
) -> list[Tensor]:
    """Token log-probabilities of the responses to one prompt, without gradients.

    Args:
        model: the causal LM to call, which may be wrapped.
        prompt_ids: tokens of the prompt.
        responses: tokens of each response.
        max_tokens: in one forward pass, padding included.
        core: the model inside the wrapper.

    Returns:
        [T] float32 per response, in nats, on the CPU.
    """
    # A single response shares its prompt with no other.
    prompt = open_prompt(model, prompt_ids, core) if len(responses) > 1 else PlainRows(model, prompt_ids, core)
    found: dict[int, Tensor] = {}
    for piece in pieces([len(ids) for ids in responses], max_tokens, prompt.row_overhead):
        logprobs = prompt.logprobs([responses[place] for place in piece]).cpu()
        # Clone, since a view would keep the whole padded piece in memory.
        found |= {place: row[: len(responses[place])].clone() for place, row in zip(piece, logprobs, strict=True)}
    return [found[place] for place in range(len(responses))]


def _has_fixed_positions(model: Any, length: int) -> bool:
    """Whether rows of this length see the prompt as shorter ones do."""
    limit = fixed_length(base_model(model))
    return limit is None or length <= limit


def _read_once(layer: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """A cache layer's `update` that does not keep the responses' keys and values, which no later token reads."""
    keys, values = layer.keys, layer.values
    found = type(layer).update(layer, *args, **kwargs)
    layer.keys, layer.values = keys, values
    return found


def _trained_embedding(base: Any) -> nn.Embedding | None:
    """The input embedding if it is plain, trained and not sharded; else None."""
    embedding = base.get_input_embeddings()
    plain = type(embedding) is nn.Embedding and not isinstance(embedding.weight, DTensor)
    return embedding if plain and embedding.weight.requires_grad else None


def _can_be_shared(cache: Any) -> bool:
    layers = getattr(cache, "layers", [])
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return bool(layers) and plain and all(layer.keys is not None for layer in layers)


def _shares(model: Any, prompt_ids: Ids, core: Any) -> bool:
    """Whether the model can share a prompt."""
    difference = partial(_difference, prompt_ids)
    return agrees("share a prompt", "it is encoded once per response", difference, model, core)


def _difference(prompt_ids: Ids, model: Any, core: Any) -> float:
    """Root mean square difference of a shared prompt from plain rows, in nats, on the first tokens of this prompt."""
    prompt = list(prompt_ids[:64])
    responses = [prompt[:5], prompt[1:13]]
    plain = PlainRows(model, prompt, core).logprobs(responses)
    # Short responses with a mask, and without one as long responses are.
    shared = [SharedPrompt(model, prompt, core, limit).logprobs(responses) for limit in (_LARGEST_MASK, 0)]
    squares = [(one - plain).square().sum().div(sum(map(len, responses))) for one in shared]
    return torch.stack(squares).max().sqrt().item()


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def _targets(responses: Sequence[Ids], input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """[N] predicted tokens, and a [B, T] mask of the positions that predict them."""
    lengths = torch.tensor([len(ids) for ids in responses] or [0], device=input_ids.device)
    wanted = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]
    return torch.tensor(
        [token for ids in responses for token in ids], device=input_ids.device, dtype=torch.long
    ), wanted
