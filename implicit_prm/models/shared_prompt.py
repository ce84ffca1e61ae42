"""Log-probabilities of all responses to one prompt, which is encoded once for all of them.

The prompt's keys and values (of all but its last token) are computed once, and every response reads them: K responses
cost P + K x R tokens instead of K x (P + R). It is exact in training as well. Responses run against detached copies of
the keys and values, a few at a time, each with its own backward pass; what they send back to those copies goes through
the prompt once at the end. That also bounds memory by the largest few responses, as checkpointing does, but without
computing anything twice.

    with torch.no_grad():
        logprobs = response_logprobs(model, prompt_ids, responses, max_tokens=4096)

    prompt = open_prompt(model, prompt_ids)
    for piece in pieces(responses, max_tokens, prompt.row_overhead):
        loss_of(prompt.logprobs([responses[place] for place in piece])).backward()
    prompt.backward()
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from implicit_prm.models.float32 import in_float32
from implicit_prm.models.forward import base_model, completion_logprobs, pad_rows, target_logprobs

Ids = Sequence[int]
# Limits of the self-check, in nats, RMS over tokens. Measured with Qwen2.5-0.5B and SmolLM2-135M: rounding 5e-6 in
# float32 and 0.1 in bfloat16; positions shifted by one 0.3.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 0.25
_ERRORS = (NotImplementedError, AttributeError, TypeError, ValueError, IndexError, RuntimeError)
_verdicts: dict[tuple[str, ...], bool] = {}


class SharedPrompt:
    """A prompt whose keys and values are computed once.

    Args:
        model: the causal LM as it is called; `core`: the model inside its wrapper.
        prompt_ids: at least two tokens. The last one is left to the responses, whose first token it predicts.
    """

    row_overhead = 1  # the prompt's last token

    def __init__(self, model: Any, prompt_ids: Ids, core: Any = None) -> None:
        self._model, self._core, self._last = model, core or model, prompt_ids[-1]
        self._device = base_model(self._core).device
        self._embedding = _trained_embedding(base_model(self._core))
        self._embedded: list[tuple[Tensor, Tensor]] = []
        ids = torch.tensor([prompt_ids[:-1]], device=self._device)
        nothing = torch.zeros_like(ids, dtype=torch.bool)
        _, output = target_logprobs(model, nothing, ids[nothing], self._core, **self._embed(ids), use_cache=True)
        self._cache: Any = output.past_key_values
        if not _can_be_shared(self._cache):
            raise NotImplementedError(f"{type(base_model(self._core)).__name__} keeps more than keys and values")
        self._anchor: Tensor = output.logits
        self._computed = [tensor for layer in self._cache.layers for tensor in (layer.keys, layer.values)]
        self._leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self._computed]

    def logprobs(self, responses: Sequence[Ids]) -> Tensor:
        """[K, T] float32 log-probabilities of the responses' tokens in nats, zero behind each one's end."""
        rows = [[self._last, *ids[:-1]] for ids in responses] or [[self._last]]
        input_ids = _padded(rows, self._device)
        targets, wanted = _targets(responses, input_ids)
        inputs = {**self._embed(input_ids), "past_key_values": self._fork(len(rows)), "use_cache": True}
        # No attention mask: attention is causal and the padding lies behind the response.
        found, _ = target_logprobs(self._model, wanted, targets, self._core, **inputs)
        return torch.zeros_like(wanted, dtype=torch.float32).masked_scatter(wanted, found)[: len(responses)]

    def backward(self) -> None:
        """Send what the responses' backward passes left at the keys and values through the prompt."""
        # The anchor, with gradient zero, makes FSDP gather weights here too; it is computed last, so it goes first.
        pairs = [(self._anchor, torch.zeros_like(self._anchor))]
        pairs += [(c, leaf.grad) for c, leaf in zip(self._computed, self._leaves, strict=True) if leaf.grad is not None]
        pairs = [(tensor, grad) for tensor, grad in pairs if tensor.requires_grad]
        if pairs:
            torch.autograd.backward([tensor for tensor, _ in pairs], [grad for _, grad in pairs])
        embedded = [(ids.flatten(), leaf.grad.flatten(0, 1)) for ids, leaf in self._embedded if leaf.grad is not None]
        if embedded and self._embedding is not None:
            self._embedding(torch.cat([ids for ids, _ in embedded])).backward(torch.cat([grad for _, grad in embedded]))

    def _embed(self, ids: Tensor) -> dict[str, Tensor]:
        """What the model's forward takes for these [B, T] tokens.

        The gradient of an embedding is as large as the vocabulary, however few tokens there are. So pieces leave theirs
        at their own vectors, and all of them go through the embedding once, at the end.
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
    """The same, one row of prompt and response each: for models that cannot share, and as the twin for the tests."""

    def __init__(self, model: Any, prompt_ids: Ids, core: Any = None) -> None:
        self._model, self._core, self._prompt = model, core or model, list(prompt_ids)
        self.row_overhead = len(self._prompt)

    def logprobs(self, responses: Sequence[Ids]) -> Tensor:
        """[K, T] float32 log-probabilities of the responses' tokens in nats, zero behind each one's end."""
        batch = pad_rows([(self._prompt, list(ids)) for ids in responses] or [(self._prompt, [])], 0)
        batch = {name: tensor.to(base_model(self._core).device) for name, tensor in batch.items()}
        logprobs = completion_logprobs(self._model, **batch, core=self._core)
        return logprobs[: len(responses), len(self._prompt) :]

    def backward(self) -> None:
        """Nothing is left to do."""


def open_prompt(model: Any, prompt_ids: Ids, core: Any = None) -> SharedPrompt | PlainRows:
    """`SharedPrompt` where the model can share, else `PlainRows`.

    A class of models is tried once, on a few tokens of this prompt, against plain rows. Where that fails, a warning
    says so and rows are plain. Gradient checkpointing recomputes layers without a cache, so it takes plain rows too.
    """
    base = base_model(core or model)
    checkpointing = base.training and any(getattr(m, "gradient_checkpointing", False) for m in base.modules())
    if len(prompt_ids) < 2 or checkpointing or not _shares(model, base, prompt_ids, core):
        return PlainRows(model, prompt_ids, core)
    return SharedPrompt(model, prompt_ids, core)


def pieces(lengths: Sequence[int], max_tokens: int, row_overhead: int = 0) -> list[list[int]]:
    """Places of responses in pieces that hold at most `max_tokens` tokens, padding included; similar lengths together.

    A response that is longer than that by itself is a piece of its own. The longest come first: if memory is short, it
    shows at once, and what later pieces need fits where earlier ones were.
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
    """Each response's [T] float32 token log-probabilities in nats, on the CPU, in the order given."""
    prompt = open_prompt(model, prompt_ids, core)
    found: dict[int, Tensor] = {}
    for piece in pieces([len(ids) for ids in responses], max_tokens, prompt.row_overhead):
        logprobs = prompt.logprobs([responses[place] for place in piece]).cpu()
        # Cloned: a view would keep the whole padded piece alive.
        found |= {place: row[: len(responses[place])].clone() for place, row in zip(piece, logprobs, strict=True)}
    return [found[place] for place in range(len(responses))]


def _read_once(layer: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """What a cache layer's `update` returns. The responses' keys and values are not kept: no token comes after them."""
    keys, values = layer.keys, layer.values
    found = type(layer).update(layer, *args, **kwargs)
    layer.keys, layer.values = keys, values
    return found


def _trained_embedding(base: Any) -> nn.Embedding | None:
    """The input embedding, where it is a plain one that is trained and whole in this process."""
    embedding = base.get_input_embeddings()
    plain = type(embedding) is nn.Embedding and not isinstance(embedding.weight, DTensor)
    return embedding if plain and embedding.weight.requires_grad else None


def _can_be_shared(cache: Any) -> bool:
    layers = getattr(cache, "layers", [])
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return bool(layers) and plain and all(layer.keys is not None for layer in layers)


def _shares(model: Any, base: Any, prompt_ids: Ids, core: Any) -> bool:
    """Whether the model can share a prompt; tried once for every class of models, with a warning if it cannot."""
    key = (type(base).__name__, str(base.config._attn_implementation), str(base.dtype), str(base.device.type))
    if key not in _verdicts:
        try:
            difference, tolerance = _self_check(model, base, prompt_ids, core)
            _verdicts[key] = difference <= tolerance
            why = f"log-probabilities differ by {difference:.2g} nats from those of plain rows; expected {tolerance:g}"
        except _ERRORS as error:
            _verdicts[key], why = False, str(error).split("\n")[0]
        if not _verdicts[key]:
            warnings.warn(f"{key[0]} cannot share a prompt ({why}); it is encoded once per response", stacklevel=3)
    return _verdicts[key]


@torch.no_grad()
def _self_check(model: Any, base: Any, prompt_ids: Ids, core: Any) -> tuple[float, float]:
    """Compare a shared prompt with plain rows, on the first tokens of this prompt and copies of parts of it.

    In half precision rounding moves a token's log-probability by as much as a wrong position does, so the comparison
    runs in float32, where the two are five orders of magnitude apart. Quantized and sharded weights cannot be
    converted; the limit for them is above what rounding does.

    Returns:
        The root mean square difference over the tokens, in nats, and the limit for it.
    """
    prompt = list(prompt_ids[:64])
    responses = [prompt[:5], prompt[1:13]]

    def difference(model: Any, core: Any) -> float:
        shared, plain = (way(model, prompt, core).logprobs(responses) for way in (SharedPrompt, PlainRows))
        return (shared - plain).square().sum().div(sum(map(len, responses))).sqrt().item()

    if _has_plain_weights(base):
        with contextlib.suppress(*_ERRORS), in_float32(base):
            # The class's forward: accelerate replaces the instance's by one under autocast.
            return difference(partial(type(base).forward, base), base), _TOLERANCE
    half = base.dtype != torch.float32 or torch.is_autocast_enabled(base.device.type)
    return difference(model, core), _HALF_TOLERANCE if half else _TOLERANCE


def _has_plain_weights(base: Any) -> bool:
    """Whether all weights are whole floating-point tensors: not quantized by bitsandbytes, not sharded."""
    sharded = any(isinstance(module, FSDPModule) for module in base.modules())
    sharded = sharded or any(hasattr(weight, "ds_id") for weight in base.parameters())  # ZeRO-3
    return not sharded and getattr(base, "hf_quantizer", None) is None


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def _targets(responses: Sequence[Ids], input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """[N] tokens that are predicted, and the [B, T] positions that predict them."""
    lengths = torch.tensor([len(ids) for ids in responses] or [0], device=input_ids.device)
    wanted = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]
    return torch.tensor(
        [token for ids in responses for token in ids], device=input_ids.device, dtype=torch.long
    ), wanted
