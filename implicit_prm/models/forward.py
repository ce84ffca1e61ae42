"""Token log-probabilities of any causal LM, read from its hidden states without ever forming its logits."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from implicit_prm.rewards.chunked_logprobs import LogitTransform, token_logprobs
from implicit_prm.types import ImplicitPRMError


def disable_dropout(model: nn.Module) -> None:
    """Dropout would differ between policy and reference and drown the log-ratio, which starts at zero."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def compile_blocks(model: Any, mode: str | None = None, backend: str = "inductor") -> None:
    """torch.compile for what every block does to its tokens one by one: MLPs and norms, in place.

    One graph serves all blocks and lengths. Attention is left out: it reads a prompt's keys and values by the number of
    its layer, so every layer would be a graph of its own. The output head is read from outside.

    Raises:
        ImplicitPRMError: an architecture that does not say what its blocks are.
    """
    base = base_model(model)
    names = set(base._no_split_modules or ())
    blocks = [module for module in base.modules() if type(module).__name__ in names]
    if not blocks:
        raise ImplicitPRMError(f"{type(base).__name__} does not name its blocks; leave trainer.torch_compile out")
    for block in blocks:
        for name, part in block.named_children():
            if "attn" not in name and "attention" not in name:
                part.compile(dynamic=True, mode=mode, backend=backend)


def pad_rows(rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> dict[str, Tensor]:
    """(prompt ids, response ids) rows to right-padded [B, T] tensors: input_ids, attention_mask, completion_mask."""
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
    """log p(target | what is before it) at the wanted positions, without the logits of any other.

    Args:
        model: as for `project_states`.
        wanted: [B, T] bool, positions whose hidden state predicts a target. None wanted runs the body alone.
        targets: [N] int64, the N predicted tokens, row by row.
        core: as for `project_states`.
        inputs: as for `project_states`.

    Returns:
        [N] float32 in nats, and the model's output, whose logits are a stand-in of width 1.
    """

    def project(states: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform) -> Tensor:
        return token_logprobs(states, weight, targets, bias, transform)

    return project_states(model, wanted, project, core, **inputs)


def logit_differences(
    model: Any, wanted: Any, tokens: tuple[int, int], core: Any = None, **inputs: Any
) -> tuple[Tensor, Any]:
    """The first token's logit less the second's at the wanted positions: of the two alone, the first has its sigmoid.

    Returns:
        [N] float32, and the model's output, whose logits are a stand-in of width 1.
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
    """What `project` makes of the hidden states at the wanted positions, and of the output head's weight and bias.

    The model's own forward runs, so that wrappers (FSDP, autocast) do their work, but its output head is swapped for
    one that reads only wanted positions.

    Args:
        model: the model to call, perhaps wrapped.
        wanted: what a [B, T, width] tensor is indexed with: a [B, T] mask, or N rows and N columns.
        project: takes [N, width] states, the head's weight and bias, and what the model does to its logits.
        core: the model inside the wrapper, where `model` is one.
        inputs: what the model's forward takes.

    Returns:
        What `project` returns, and the model's output, whose logits are a stand-in of width 1.

    Raises:
        ImplicitPRMError: the output head is not one plain linear layer (a LoRA on it, say), or was not used.
    """
    base = base_model(core or model)
    head: Any = base.get_output_embeddings()
    readable = type(head) is nn.Linear or isinstance(head, FSDPModule)  # FSDP makes a class of its own of Linear
    if not readable:
        raise ImplicitPRMError(
            f"{type(base).__name__}: the output head is a {type(head).__name__}; only a plain linear head can be read. "
            "Leave it out of model.lora.target_modules (all-linear does)"
        )
    captured: list[Tensor] = []

    def read(hidden: Tensor) -> Tensor:
        states, weight = hidden[wanted], head.weight
        if torch.is_autocast_enabled(states.device.type):
            dtype = torch.get_autocast_dtype(states.device.type)
            states, weight = states.to(dtype), weight.to(dtype)
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
    # The stand-in takes part with weight zero: FSDP gathers a module's weights for the backward pass when a gradient
    # reaches the module's output, and what was projected left it by the side door.
    return captured[0] + 0.0 * output.logits.sum(), output


def completion_logprobs(
    model: Any, input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor, core: Any = None
) -> Tensor:
    """log p(token t | tokens < t) at every completion token, zero elsewhere: [B, T] float32, in nats.

    Args:
        model: as for `target_logprobs`.
        core: as for `target_logprobs`.
        input_ids: [B, T] int64, right-padded.
        attention_mask: [B, T] int64.
        completion_mask: [B, T] bool; the first position of a row cannot be true, as nothing predicts it.
    """
    wanted = torch.zeros_like(completion_mask)
    wanted[:, :-1] = completion_mask[:, 1:]
    targets = input_ids[completion_mask]
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    found, _ = target_logprobs(model, wanted, targets, core, **inputs)
    return torch.zeros_like(completion_mask, dtype=torch.float32).masked_scatter(completion_mask, found)


def base_model(model: Any) -> PreTrainedModel:
    """The transformers model below a PEFT one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _transform(model: PreTrainedModel) -> LogitTransform:
    """What the architecture does to its logits: Gemma's soft cap, Cohere's scale, Granite's divisor."""
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return LogitTransform(scale / divisor, getattr(config, "final_logit_softcapping", None))


def best_device() -> torch.device:
    """CUDA (this process' one) where there is one, else the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


def token_budget(device: torch.device, separable: bool = False) -> int:
    """Tokens in one forward pass where nobody said: what keeps a GPU busy, or stays in a CPU's caches.

    separable: training with a loss that is a sum over responses. Smaller pieces then cost nothing, and they take half
    of the memory; with other losses, all but the first piece of a group are run twice.
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
        f"{way_out}, or (ipr-eval) set too_long"
    )
