"""Open the tokenizer and the weights of a `ModelSource`, with clear errors for what cannot be opened."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from implicit_prm.config import Dtype, Quantization
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models import lora
from implicit_prm.models.checkpoint import ADAPTER_OFF, CheckpointMetadata
from implicit_prm.models.source import ModelSource, find_damage
from implicit_prm.types import ImplicitPRMError

Head = Literal["causal_lm", "value", "new_value"]


def open_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Open a model's tokenizer, or its base's if an adapter comes without one.

    Raises:
        ImplicitPRMError: it is missing or damaged.
    """
    if source.adapter is not None and not (source.folder / "tokenizer_config.json").exists():
        return open_tokenizer(source.base)
    with _readable_errors(source, "tokenizer of"):
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                str(source.folder), token=source.token, trust_remote_code=source.trust_remote_code
            )
            tokenizer("probe \u2603")  # a damaged one may fail at the first word that it does not know
        except ValueError as error:
            if (source.folder / "tokenizer.json").exists():
                raise
            raise ImplicitPRMError(
                f"{source.name} has no tokenizer that can be read: tokenizer.json is missing. Copy it and "
                "tokenizer_config.json from the original model"
            ) from error
    if source.commit is not None:
        tokenizer.name_or_path = source.name
    return tokenizer


def open_config(source: ModelSource) -> Any:
    """Open a model's configuration; its base's if it is an adapter.

    Raises:
        ImplicitPRMError: it cannot be read.
    """
    if source.adapter is not None:
        return open_config(source.base)
    with _readable_errors(source):
        return AutoConfig.from_pretrained(
            str(source.folder), token=source.token, trust_remote_code=source.trust_remote_code
        )


def open_model(
    source: ModelSource,
    dtype: Dtype = "float32",
    attn_implementation: str | None = None,
    *,
    quantization: Quantization | None = None,
    head: Head = "causal_lm",
) -> PreTrainedModel:
    """Open a model in evaluation mode. A LoRA adapter is merged into its base, in memory.

    Args:
        source: the model.
        dtype: of the weights.
        attn_implementation: as for transformers' `from_pretrained`.
        quantization: `4bit` rounds the linear layers with bitsandbytes; they then compute in `dtype`.
        head: `causal_lm`; `value` for one number per token instead of logits (transformers' token classification with
            one label); or `new_value`, which adds that head, with zero weights, if the model has none.

    Raises:
        ImplicitPRMError: it cannot be read, lacks weights, has weights that are not finite, or is an encoder-decoder.
    """
    if source.adapter is not None:
        if head != "causal_lm":
            raise ImplicitPRMError(f"{source.name} is a LoRA adapter; a value head needs a full model: merge it first")
        if quantization is not None:
            raise ImplicitPRMError(
                f"{source.name} is a LoRA adapter, which cannot be merged into a base in {quantization}"
            )
        return lora.merge(open_adapted(source, dtype, attn_implementation))
    options: dict[str, Any] = {"token": source.token, "trust_remote_code": source.trust_remote_code}
    with _readable_errors(source):
        if AutoConfig.from_pretrained(str(source.folder), **options).is_encoder_decoder:
            raise ImplicitPRMError(f"{source.name} is an encoder-decoder; expected a causal language model")
        source.download_weights()
        if quantization is not None:
            options["quantization_config"] = _bitsandbytes(quantization, dtype)
        kind: Any = AutoModelForCausalLM
        if head != "causal_lm":
            kind, options["num_labels"] = AutoModelForTokenClassification, 1
        model, report = kind.from_pretrained(
            str(source.folder),
            dtype=dtype,
            attn_implementation=attn_implementation,
            output_loading_info=True,
            **options,
        )
    _check_complete(source, model, report["missing_keys"], head)
    if head == "new_value":
        _set_to_zero(model, report["missing_keys"])
    check_finite(model, source.name)
    if source.commit is not None:
        model.name_or_path = source.name
    return model.eval()


def open_adapted(
    source: ModelSource,
    dtype: Dtype = "float32",
    attn_implementation: str | None = None,
    quantization: Quantization | None = None,
) -> Any:
    """Open a LoRA adapter on its base: a `PeftModel` in evaluation mode. The arguments are for the base.

    Raises:
        ImplicitPRMError: the base or the adapter cannot be opened, or the adapter was made for another model.
    """
    try:
        base = open_model(source.base, dtype, attn_implementation, quantization=quantization)
    except ImplicitPRMError as error:
        raise ImplicitPRMError(
            f"the base model of the adapter {source.name}: {error}. The base is named in its adapter_config.json "
            "(base_model_name_or_path) and, if ipr-train wrote it, in implicit_prm.json (base)"
        ) from error
    with _readable_errors(source, "adapter"):
        source.download_weights()
        adapted = lora.attach(base, source.folder)
    check_finite(adapted, source.name)
    return adapted


def open_policy(
    source: ModelSource, metadata: CheckpointMetadata, dtype: Dtype = "float32"
) -> tuple[Any, CheckpointMetadata]:
    """Open the policy of an implicit PRM: a full model, or a LoRA adapter on its base.

    An adapter on the output head cannot be disabled where log-probabilities are read from the head. It is merged, and
    the metadata that is returned names the base as the reference.

    Raises:
        ImplicitPRMError: it cannot be opened, or `metadata.quantization` is set for a full model.
    """
    quantization: Any = metadata.quantization
    if source.adapter is None:
        if quantization is not None:
            raise ImplicitPRMError(
                f"quantization={quantization}: {source.name} is not a LoRA adapter. Quantizing a full policy would "
                "show up as reward, since its reference is rounded differently"
            )
        return open_model(source, dtype), metadata
    policy = open_adapted(source, dtype, quantization=quantization)
    if quantization is not None or lora.has_plain_head(policy.get_base_model()):
        return policy, metadata
    merged = replace(metadata, base=None, base_revision=None)
    if metadata.reference == ADAPTER_OFF:
        merged = replace(merged, reference=source.adapter.base, reference_revision=source.adapter.base_revision)
    return lora.merge(policy), merged


def check_same_tokens(tokenizer: PreTrainedTokenizerBase, reference: ModelSource) -> None:
    """Check that policy and reference read the same tokens, which a log-ratio needs.

    Vocabularies are compared, not the sizes of embeddings, which are padded differently within one family.

    Raises:
        ImplicitPRMError: the reference has another vocabulary.
    """
    if open_tokenizer(reference).get_vocab() != tokenizer.get_vocab():
        raise ImplicitPRMError(
            f"the reference {reference.name} has another vocabulary than the policy, so their log-ratio means nothing; "
            "use a reference of the same model family"
        )


def check_embeds(model: Any, encoder: Encoder) -> None:
    """Check that the model has an embedding for every token of the tokenizer.

    Added tokens that no prompt uses may lack one: Gemma's text models have an image token that they never see.

    Raises:
        ImplicitPRMError: it does not; names the first such token.
    """
    size = model.config.get_text_config().vocab_size
    optional = set(encoder.tokenizer.added_tokens_decoder) - {encoder.end_of_turn, *encoder.prompt_ids("probe")}
    vocabulary = encoder.tokenizer.get_vocab()
    outside = {token: number for token, number in vocabulary.items() if number >= size and number not in optional}
    if outside:
        first = min(outside, key=lambda token: outside[token])
        raise ImplicitPRMError(
            f"the tokenizer does not match the model {model.name_or_path}: it has {len(vocabulary)} tokens, the model "
            f"embeds {size}, so {first!r} (token {outside[first]}) has no embedding; use the tokenizer that the model "
            "was trained with"
        )


@torch.no_grad()
def check_finite(model: torch.nn.Module, name: str) -> None:
    """Check that all weights are finite; reads each of them once.

    Raises:
        ImplicitPRMError: names the first tensor with NaN or infinity.
    """
    for key, weight in model.named_parameters():
        # Quantized weights are integers; under ZeRO-3 another process may hold the whole tensor.
        if not weight.is_floating_point() or weight.is_meta or not weight.numel():
            continue
        if not torch.stack(weight.aminmax()).isfinite().all():  # the extremes of a tensor with NaN are NaN
            raise ImplicitPRMError(
                f"the model {name} has weights that are not finite (in {key}); its training diverged, or its dtype "
                "overflowed: use an earlier checkpoint, or dtype=float32"
            )


def _check_complete(source: ModelSource, model: Any, missing: set[str], head: Head) -> None:
    if head == "new_value":
        missing = {key for key in missing if key.startswith(f"{model.base_model_prefix}.")}
    if missing:
        raise ImplicitPRMError(
            f"cannot open the model {source.name!r}: its files have no weights for {min(missing)} "
            f"({len(missing)} are missing), which would be random; is it another kind of model?"
        )


@torch.no_grad()
def _set_to_zero(model: PreTrainedModel, missing: set[str]) -> None:
    """A new head gives 0 at every token. A random one gives large numbers where hidden states are large."""
    for name in missing:
        model.get_parameter(name).zero_()


def _bitsandbytes(quantization: str, dtype: str) -> BitsAndBytesConfig:
    """QLoRA's quantization (arXiv 2305.14314): 4-bit NormalFloat with doubly quantized scales."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ImplicitPRMError(
            f"model.quantization={quantization} needs bitsandbytes: pip install 'implicit-prm[qlora]', or leave it out"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype="bfloat16" if dtype == "auto" else dtype,
    )


@contextlib.contextmanager
def _readable_errors(source: ModelSource, what: str = "model") -> Iterator[None]:
    """Turn the errors of transformers, peft, tokenizers and safetensors into one sentence with the cause."""
    try:
        yield
    except ImplicitPRMError:
        raise
    except Exception as error:  # they raise many kinds
        reason = find_damage(source.folder)
        if reason is None and not any((source.folder / f).exists() for f in ("config.json", "adapter_config.json")):
            reason = "config.json is missing: not a model's folder, or an incomplete download"
        elif "trust_remote_code" in str(error):
            reason = (
                "it comes with Python code, which only runs with trust_remote_code=true and for models that you name; "
                f"if it is the reference of a checkpoint, set reference={source.name} as well"
            )
        elif "ignore_mismatched_sizes" in str(error):
            reason = "its weights have other sizes than its config.json says"
        reason = reason or str(error).strip().split("\n")[0].rstrip(".: ") or type(error).__name__
        raise ImplicitPRMError(f"cannot open the {what} {source.name!r}: {reason}") from error
