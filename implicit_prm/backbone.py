"""Opening a causal LM, and reading token log-probabilities from it without ever forming its logits."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file, extract_commit_hash

from implicit_prm import adapters
from implicit_prm.config import PolicyConfig
from implicit_prm.data.reference_cache import weights_digest
from implicit_prm.data.tokens import Encoder
from implicit_prm.loading import clear_load_errors
from implicit_prm.records import ImplicitPRMError
from implicit_prm.reward.logprobs import LogitTransform, token_logprobs
from implicit_prm.sandbox import POLICY_PATH

Head = Literal["causal_lm", "value", "new_value"]


def locate(name: str) -> str:
    """`sandbox` is the policy in the package; everything else is a hub id or a path, as it stands."""
    return str(POLICY_PATH) if name == "sandbox" else name


def open_tokenizer(config: PolicyConfig, token: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, of its base where an adapter has none; raises ImplicitPRMError if it cannot be read."""
    name = locate(config.name)
    options = {"revision": config.revision, "token": token}
    adapter = adapters.find(name, config.revision, token)
    if adapter is not None:
        with clear_load_errors(name):
            own = cached_file(name, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False, **options)
        if own is None:
            return open_tokenizer(replace(config, name=adapter.base, revision=adapter.base_revision), token)
    with clear_load_errors(name, "tokenizer of" if Path(name).is_dir() else "model"):
        try:
            return AutoTokenizer.from_pretrained(name, trust_remote_code=config.trust_remote_code, **options)
        except ValueError as error:
            if not Path(name).is_dir() or Path(name, "tokenizer.json").exists():
                raise
            raise ImplicitPRMError(
                f"{config.name} has no tokenizer that can be read: tokenizer.json is missing. Copy it and "
                "tokenizer_config.json from where the model came from"
            ) from error


def check_same_tokens(
    tokenizer: PreTrainedTokenizerBase, name: str, revision: str | None = None, token: str | None = None
) -> None:
    """A log-ratio needs both models to read the same tokens; raises ImplicitPRMError if the reference reads others.

    Vocabularies are compared, not the sizes of embeddings, which are padded differently within one family.
    """
    reference = open_tokenizer(PolicyConfig(name, revision), token)
    if reference.get_vocab() != tokenizer.get_vocab():
        raise ImplicitPRMError(
            f"the reference {name} has another vocabulary than the policy, so a log-ratio of the two means nothing; "
            "take a reference of the same family"
        )


def check_embeds(model: Any, encoder: Encoder) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for; raises ImplicitPRMError naming one.

    Added tokens that no prompt uses may lie outside: Gemma's text models have one for images that they never see.
    """
    known = model.config.get_text_config().vocab_size
    optional = set(encoder.tokenizer.added_tokens_decoder) - {encoder.end_of_turn, *encoder.prompt_ids("probe")}
    vocabulary = encoder.tokenizer.get_vocab()
    outside = {token: number for token, number in vocabulary.items() if number >= known and number not in optional}
    if outside:
        first = min(outside, key=lambda token: outside[token])
        raise ImplicitPRMError(
            f"the tokenizer does not match the model {model.name_or_path}: it has {len(vocabulary)} tokens, the model "
            f"embeds {known}, so {first!r} (token {outside[first]}) has no embedding; use the tokenizer that the model "
            "was trained with"
        )


def open_model(
    config: PolicyConfig, token: str | None = None, quantization: str | None = None, head: Head = "causal_lm"
) -> PreTrainedModel:
    """A causal LM by hub id or local path, in evaluation mode; a LoRA adapter is merged into its base in memory.

    Args:
        quantization: `4bit` for linear layers rounded by bitsandbytes, for QLoRA; `config.dtype` is then what they
            compute in.
        head: `causal_lm`, or `value` for one number per token in the place of a vocabulary's logits (transformers'
            token classification with one label); `new_value` makes that head where the model has none.

    Raises:
        ImplicitPRMError: it cannot be found or read, lacks weights, or is an encoder-decoder.
    """
    name = locate(config.name)
    options: dict[str, Any] = {"revision": config.revision, "token": token}
    options["trust_remote_code"] = config.trust_remote_code
    adapter = adapters.find(name, config.revision, token)
    if adapter is not None:
        if head != "causal_lm":
            raise ImplicitPRMError(f"{config.name} is an adapter; a value head takes a plain model, so merge it first")
        if quantization is not None:
            raise ImplicitPRMError(f"{config.name} is an adapter, which cannot be merged and rounded to {quantization}")
        return adapters.merge(adapters.put_on(open_base(config, adapter, token), adapter, token))
    if quantization is not None:
        options["quantization_config"] = _bitsandbytes(quantization, config.dtype)
    with clear_load_errors(name):
        if AutoConfig.from_pretrained(name, **options).is_encoder_decoder:
            raise ImplicitPRMError(
                f"{config.name} is an encoder-decoder; an implicit PRM needs a causal language model"
            )
        kind: Any = AutoModelForCausalLM
        if head != "causal_lm":
            kind, options["num_labels"] = AutoModelForTokenClassification, 1
        opened: Any = kind.from_pretrained(
            name,
            dtype=config.dtype,
            attn_implementation=config.attn_implementation,
            output_loading_info=True,
            **options,
        )
    model, report = opened
    missing = report["missing_keys"]
    if head == "new_value":
        missing = {key for key in missing if key.startswith(f"{model.base_model_prefix}.")}
    if missing:
        raise ImplicitPRMError(
            f"cannot open the model {config.name!r}: its files have no weights for {min(missing)} "
            f"({len(missing)} are missing), which would be random; is it another kind of model?"
        )
    return model.eval()


def open_base(
    config: PolicyConfig, adapter: adapters.Adapter, token: str | None = None, quantization: str | None = None
) -> PreTrainedModel:
    """The model below an adapter, opened as `config` says.

    Raises:
        ImplicitPRMError: it is not there; the message names the adapter and where its base is written.
    """
    try:
        return open_model(replace(config, name=adapter.base, revision=adapter.base_revision), token, quantization)
    except ImplicitPRMError as error:
        raise ImplicitPRMError(
            f"the base model of the adapter {adapter.name}: {error}. The base is named in its adapter_config.json "
            "(base_model_name_or_path) and, where ipr-train wrote it, in implicit_prm.json (base)"
        ) from error


def _bitsandbytes(quantization: str, dtype: str) -> BitsAndBytesConfig:
    """QLoRA's setting (arXiv 2305.14314): 4-bit NormalFloat with doubly quantised scales."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ImplicitPRMError(
            f"model.quantization={quantization} needs bitsandbytes: pip install 'implicit-prm[qlora]', or leave it out"
        )
    compute = "bfloat16" if dtype == "auto" else dtype
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def weights_of(config: PolicyConfig) -> dict[str, Any]:
    """Which weights a name stands for now: the commit of a hub id, the sizes in bytes of a local folder's weight files.

    Raises:
        ImplicitPRMError: there is no such model.
    """
    name = locate(config.name)
    files = [path for path in Path(name).glob("*") if path.suffix in (".safetensors", ".bin")]
    return {
        "commit": _commit(name, config.revision, adapters.find(name, config.revision) is not None),
        "weight_bytes": {path.name: path.stat().st_size for path in sorted(files)},
    }


def weights_identity(name: str, revision: str | None = None) -> str:
    """What differs where weights do: a hub id's commit or a hash of a folder's content; an adapter's with its base's.

    Raises:
        ImplicitPRMError: there is no such model.
    """
    name = locate(name)
    adapter = adapters.find(name, revision)
    commit = _commit(name, revision, adapter is not None)
    own = commit or weights_digest(name)
    return own if adapter is None else f"{own} on {weights_identity(adapter.base, adapter.base_revision)}"


def _commit(name: str, revision: str | None, is_adapter: bool) -> str | None:
    """The commit that a hub id stands for; None for a local folder."""
    with clear_load_errors(name):
        resolved = cached_file(name, "adapter_config.json" if is_adapter else "config.json", revision=revision)
    return extract_commit_hash(resolved, None)


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
        wanted: [B, T] bool, positions whose hidden state predicts a target. None wanted runs the body alone.
        targets: [N] int64, the N predicted tokens, row by row.
        model, core, inputs: as for `project_states`.

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
        model, core: as for `target_logprobs`.
        input_ids, attention_mask: [B, T] int64, right-padded.
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
