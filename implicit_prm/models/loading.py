"""Opening a causal LM and its tokenizer, by hub id or path, and what tells its weights from others."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

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

from implicit_prm.config import PolicyConfig
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models import lora
from implicit_prm.models.load_errors import clear_load_errors
from implicit_prm.models.reference_cache import weights_digest
from implicit_prm.sandbox import POLICY_PATH
from implicit_prm.types import ImplicitPRMError

Head = Literal["causal_lm", "value", "new_value"]


def locate(name: str) -> str:
    """`sandbox` is the policy in the package; everything else is a hub id or a path, as it stands."""
    return str(POLICY_PATH) if name == "sandbox" else name


def open_tokenizer(config: PolicyConfig, token: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, of its base where an adapter has none; raises ImplicitPRMError if it cannot be read."""
    name = locate(config.name)
    options = {"revision": config.revision, "token": token}
    adapter = lora.find(name, config.revision, token)
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
    adapter = lora.find(name, config.revision, token)
    if adapter is not None:
        if head != "causal_lm":
            raise ImplicitPRMError(f"{config.name} is an adapter; a value head takes a plain model, so merge it first")
        if quantization is not None:
            raise ImplicitPRMError(f"{config.name} is an adapter, which cannot be merged and rounded to {quantization}")
        return lora.merge(lora.put_on(open_base(config, adapter, token), adapter, token))
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
    config: PolicyConfig, adapter: lora.Adapter, token: str | None = None, quantization: str | None = None
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
        "commit": _commit(name, config.revision, lora.find(name, config.revision) is not None),
        "weight_bytes": {path.name: path.stat().st_size for path in sorted(files)},
    }


def weights_identity(name: str, revision: str | None = None) -> str:
    """What differs where weights do: a hub id's commit or a hash of a folder's content; an adapter's with its base's.

    Raises:
        ImplicitPRMError: there is no such model.
    """
    name = locate(name)
    adapter = lora.find(name, revision)
    commit = _commit(name, revision, adapter is not None)
    own = commit or weights_digest(name)
    return own if adapter is None else f"{own} on {weights_identity(adapter.base, adapter.base_revision)}"


def _commit(name: str, revision: str | None, is_adapter: bool) -> str | None:
    """The commit that a hub id stands for; None for a local folder."""
    with clear_load_errors(name):
        resolved = cached_file(name, "adapter_config.json" if is_adapter else "config.json", revision=revision)
    return extract_commit_hash(resolved, None)
