"""Token log-probabilities of any causal LM, computed from its hidden states without the full logits tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from implicit_prm.models.rotary import fixed_length
from implicit_prm.rewards.chunked_logprobs import LogitTransform, token_logprobs
from implicit_prm.types import ImplicitPRMError


def disable_dropout(model: nn.Module) -> None:
    """Set dropout probabilities to zero: their noise would drown the log-ratio, which starts at zero.

    That of a LoRA adapter stays: it regularizes training, and the reference does not have it.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and "lora_dropout" not in name:
            module.p = 0.0


def compile_blocks(model: Any, mode: str | None = None, backend: str = "inductor") -> None:
    """Apply torch.compile to the MLPs and norms of every block, in place.

    One graph serves all blocks and lengths. Attention is not compiled: it indexes the cache by its layer number, so
    every layer would need a graph of its own.

    Args:
        model: a causal LM, or a PEFT model of one.
        mode: as for torch.compile.
        backend: as for torch.compile.

    Raises:
        ImplicitPRMError: the architecture does not name its blocks.
    """
    base = base_model(model)
    names = set(base._no_split_modules or ())
    blocks = [module for module in base.modules() if type(module).__name__ in names]
    if not blocks:
        raise ImplicitPRMError(f"{type(base).__name__} does not name its blocks; remove trainer.torch_compile")
    for block in blocks:
        for name, part in block.named_children():
            if "attn" not in name and "attention" not in name:
                part.compile(dynamic=True, mode=mode, backend=backend)


def pad_rows(rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> dict[str, Tensor]:
    """Right-pad rows of prompt and response ids.

    Args:
        rows: prompt ids and response ids of each row.
        pad_id: the padding token.

    Returns:
        [B, T] tensors: input_ids and attention_mask (int64), completion_mask (bool).
    """
    width = max(len(prompt) + len(response) for prompt, response in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    attention = torch.zeros(len(rows), width, dtype=torch.long)
    completion = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        input_ids[row, :end] = torch.tensor([*prompt, *response])
        attention[row, :end] = 1
        completion[row, len(prompt) : end] = True
    return {"input_ids": input_ids, "attention_mask": attention, "completion_mask": completion}


def target_logprobs(model: Any, wanted: Tensor, targets: Tensor, core: Any = None, **inputs: Any) -> tuple[Tensor, Any]:
    """log p(target | previous tokens) at the wanted positions, without the logits of other positions.

    Args:
        model: as for `project_states`.
        wanted: [B, T] bool, positions whose hidden state predicts a target.
        targets: [N] int64, the N predicted tokens, row by row.
        core: as for `project_states`.
        inputs: as for `project_states`.

    Returns:
        [N] float32 in nats, and the model's output, whose logits are a placeholder of width 1.
    """

    def project(states: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform) -> Tensor:
        return token_logprobs(states, weight, targets, bias, transform)

    return project_states(model, wanted, project, core, **inputs)


def logit_differences(
    model: Any, wanted: Any, tokens: tuple[int, int], core: Any = None, **inputs: Any
) -> tuple[Tensor, Any]:
    """The first token's logit minus the second's at the wanted positions.

    Its sigmoid is the probability of the first token if only the two are possible.

    Args:
        model: as for `project_states`.
        wanted: as for `project_states`.
        tokens: ids of the two tokens.
        core: as for `project_states`.
        inputs: as for `project_states`.

    Returns:
        [N] float32, and the model's output, whose logits are a placeholder of width 1.
    """

    def project(states: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform) -> Tensor:
        places = list(tokens)
        logits = transform(F.linear(states, weight[places], None if bias is None else bias[places]).float())
        return logits[:, 0] - logits[:, 1]

    return project_states(model, wanted, project, core, **inputs)


def project_states(
    model: Any,
    wanted: Any,
    project: Callable[[Tensor, Tensor, Tensor | None, LogitTransform], Tensor],
    core: Any = None,
    **inputs: Any,
) -> tuple[Tensor, Any]:
    """Apply `project` to the hidden states at the wanted positions, in place of the output head.

    The model's own forward runs, so wrappers (FSDP, autocast) work as usual. Only the output head's forward is replaced
    during the call.

    Args:
        model: the model to call, which may be wrapped.
        wanted: indexes a [B, T, width] tensor: a [B, T] mask, or N rows and N columns.
        project: takes [N, width] states, the head's weight and bias, and the model's transform of its logits.
        core: the model inside the wrapper.
        inputs: arguments of the model's forward.

    Returns:
        The result of `project`, and the model's output, whose logits are a placeholder of width 1.

    Raises:
        ImplicitPRMError: the output head is not a plain linear layer (it has a LoRA adapter, for example), or the model
            does not call it.
    """
    base = base_model(core or model)
    head: Any = base.get_output_embeddings()
    readable = type(head) is nn.Linear or isinstance(head, FSDPModule)  # FSDP makes a subclass of Linear
    if not readable:
        raise ImplicitPRMError(
            f"{type(base).__name__}: expected a plain linear output head, got {type(head).__name__}. Remove it from "
            "model.lora.target_modules (all-linear does not include it)"
        )
    captured: list[Tensor] = []

    def read(hidden: Tensor) -> Tensor:
        states, weight = hidden[wanted], head.weight
        captured.append(project(states.to(weight.dtype), weight, head.bias, _transform(base)))
        return hidden[..., :1]

    head.forward = read
    try:
        output = model(**inputs)
    finally:
        del head.forward
    if not captured:
        raise ImplicitPRMError(
            f"{type(base).__name__} does not call its output head; this architecture is not supported"
        )
    # FSDP gathers a module's weights for the backward pass when a gradient reaches the module's output. The projection
    # bypasses that output, so it is added with weight zero.
    return captured[0] + 0.0 * output.logits.sum(), output


def completion_logprobs(
    model: Any, input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor, core: Any = None
) -> Tensor:
    """log p(token t | tokens < t) at every completion token.

    Rows beyond the `fixed_length` of the model's rotary embeddings run alone, except with sharded weights, whose
    processes must run as many forward passes each.

    Args:
        model: as for `project_states`.
        input_ids: [B, T] int64, right-padded.
        attention_mask: [B, T] int64.
        completion_mask: [B, T] bool; false at the first position of a row, which nothing predicts.
        core: as for `project_states`.

    Returns:
        [B, T] float32 in nats, zero outside the completion.
    """
    base = base_model(core or model)
    limit = fixed_length(base)
    if limit is not None and attention_mask.shape[1] > limit and len(input_ids) > 1 and not is_sharded(base):
        found = torch.zeros_like(completion_mask, dtype=torch.float32)
        for rows, width in _apart(attention_mask.sum(-1).tolist(), limit):
            ids, mask, completion = (one[rows, :width] for one in (input_ids, attention_mask, completion_mask))
            found[rows, :width] = completion_logprobs(model, ids, mask, completion, core)
        return found
    wanted = torch.zeros_like(completion_mask)
    wanted[:, :-1] = completion_mask[:, 1:]
    targets = input_ids[completion_mask]
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    found, _ = target_logprobs(model, wanted, targets, core, **inputs)
    return torch.zeros_like(completion_mask, dtype=torch.float32).masked_scatter(completion_mask, found)


def _apart(lengths: Sequence[int], limit: int) -> list[tuple[list[int], int]]:
    """The rows of each forward pass and its width: those up to the limit together, every longer one alone."""
    short = [row for row, length in enumerate(lengths) if length <= limit]
    batches = [(short, max(lengths[row] for row in short))] if short else []
    return batches + [([row], length) for row, length in enumerate(lengths) if length > limit]


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP or ZeRO-3 splits the weights between processes."""
    sharded = any(isinstance(module, FSDPModule) for module in model.modules())
    return sharded or any(hasattr(weight, "ds_id") for weight in model.parameters())


def base_model(model: Any) -> PreTrainedModel:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def next_token_logprobs(model: Any, states: Tensor) -> Tensor:
    """log p(token | previous tokens) of every token of the vocabulary.

    Args:
        model: a causal LM, or a PEFT model of one.
        states: [N, width] final hidden states, the input of the output head.

    Returns:
        [N, V] float32, in nats.
    """
    base = base_model(model)
    head: Any = base.get_output_embeddings()
    return _transform(base)(head(states).float()).log_softmax(-1)


def recomputes_layers(model: Any) -> bool:
    """Whether gradient checkpointing is on. It runs layers again in the backward pass, which excludes a cache."""
    base = base_model(model)
    return base.training and any(getattr(module, "gradient_checkpointing", False) for module in base.modules())


def _transform(model: PreTrainedModel) -> LogitTransform:
    """The architecture's transform of its logits: Gemma's soft cap, Cohere's scale, Granite's divisor."""
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return LogitTransform(scale / divisor, getattr(config, "final_logit_softcapping", None))


def best_device() -> torch.device:
    """This process's CUDA device if available, else the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


def token_budget(device: torch.device, separable: bool = False) -> int:
    """Default number of tokens in one forward pass: enough to keep a GPU busy, or to stay within a CPU's caches.

    Args:
        device: where the model runs.
        separable: training with a loss that is a sum over responses. Smaller pieces then cost no time and take half of
            the memory; with other losses, all but the first piece of a group run twice.

    Returns:
        The number of tokens, padding included.
    """
    if device.type != "cpu":
        return 16_384
    return 384 if separable else 1024


def check_length(length: int, place: int, limit: int | None, context: int | None) -> None:
    """Check the length of a response with its prompt.

    Args:
        length: in tokens.
        place: index of the response, for the message.
        limit: the longest allowed; None for no limit.
        context: the model's context, to name the limit in the message.

    Raises:
        ImplicitPRMError: the response is over the limit.
    """
    if limit is None or length <= limit:
        return
    what, way_out = "the model's context", "use a model with a longer context"
    if limit != context:
        what, way_out = "max_length", "raise max_length"
    raise ImplicitPRMError(
        f"response {place} is {length} tokens long with its prompt; the limit is {limit}, {what}. Remove it, "
        f"{way_out}, or set too_long (ipr-eval, ipr-score) or a lower sampling.max_new_tokens (ipr-search)"
    )
