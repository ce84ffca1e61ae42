"""The models that a training run opens: the initial policy, its adapter, its reference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import deepspeed

from implicit_prm.config import LoraConfig, ModelConfig
from implicit_prm.models import forward, loading
from implicit_prm.models.checkpoint import ADAPTER_OFF, METADATA_FILE, NONE, CheckpointMetadata
from implicit_prm.models.source import ModelSource
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.io import atomic_folder

START_FOLDER = "start"  # in the output folder: the initial weights, if they are a base with an adapter merged in

# Ends messages that name options of ipr-train, which ImplicitPRMTrainer calls otherwise.
_ARGUMENTS = " (arguments of ImplicitPRMTrainer: model, ref_model, beta)"


@dataclass(frozen=True)
class InitialModel:
    """The model that training starts from.

    Args:
        config: the options, with a reference that is `initial`, `none` or named, and a number for beta.
        source: the files of a full model.
        trust_reference: whether Python code that comes with the reference may run.
    """

    config: ModelConfig
    source: ModelSource
    trust_reference: bool = False

    @cached_property
    def reference_source(self) -> ModelSource | None:
        """The reference; None if there is none.

        Raises:
            ImplicitPRMError: it cannot be found.
        """
        config = self.config
        if config.reference == NONE:
            return None
        if config.reference == "initial":
            return self.source
        return ModelSource.resolve(config.reference, config.reference_revision, trust_remote_code=self.trust_reference)


def resolve(
    model: ModelConfig, output_dir: str, arguments: TrainingArguments, resumed: bool, say: Callable[[str], None]
) -> InitialModel:
    """Find the initial model and settle its reference and beta.

    A LoRA adapter is merged into its base and saved in `output_dir/start`, so that the checkpoint depends on no other
    run's files; a resumed run finds it there. With `model.reference=checkpoint` the reference and beta are those of the
    implicit PRM that training starts from.

    Args:
        model: the options.
        output_dir: the run's output folder.
        arguments: the trainer's, for the order of processes.
        resumed: whether the run resumes from a checkpoint.
        say: prints a line.

    Returns:
        The initial model.

    Raises:
        ImplicitPRMError: the model cannot be found; it is an adapter or an implicit PRM and `model.reference` does not
            say which reference to use; or `model.reference=checkpoint` with another model or another beta.
    """
    source = ModelSource.of(model)
    prm = source.metadata if isinstance(source.metadata, CheckpointMetadata) else None
    if model.reference == "initial" and (source.adapter is not None or prm is not None):
        raise ImplicitPRMError(_reference_choices(source, prm))
    trusted = model.trust_remote_code
    if model.reference == "checkpoint":
        # The base of an adapter is part of the model; another reference is only named by the checkpoint's file.
        trusted = trusted and prm is not None and prm.reference == ADAPTER_OFF
        model = _continued(model, source, prm)
    config = replace(model, reference="initial" if model.reference == "start" else model.reference)
    if source.adapter is None:
        return InitialModel(config, source, trusted)
    folder = Path(output_dir).resolve() / START_FOLDER
    with arguments.main_process_first(desc="merging the initial adapter"):
        if arguments.local_process_index == 0 and not (resumed and folder.is_dir()):
            say(f"model.name: merging the adapter {model.name} into {source.adapter.base}, saved in {folder}")
            merged = loading.open_model(source, model.dtype, model.attn_implementation)
            tokenizer = loading.open_tokenizer(source)
            with atomic_folder(folder, replace_old=True) as unfinished:
                merged.save_pretrained(unfinished)
                tokenizer.save_pretrained(unfinished)
    config = replace(config, name=str(folder), revision=None)
    return InitialModel(config, ModelSource.of(config), trusted)


def _reference_choices(source: ModelSource, prm: CheckpointMetadata | None) -> str:
    """Message for an initial model that leaves the reference open."""
    if prm is not None:
        reference = "its base" if prm.reference == ADAPTER_OFF else prm.reference
        return (
            f"model.name={source.name} is an implicit PRM (beta {prm.beta}, reference {reference}), so the initial "
            "reference is ambiguous. Set model.reference=checkpoint model.beta=null (continue training its reward), "
            f"model.reference=start ({source.name} itself: a new reward, initially zero), another model, or "
            f"none{_ARGUMENTS}"
        )
    assert source.adapter is not None
    return (
        f"model.name={source.name} is a LoRA adapter on {source.adapter.base}, so the initial reference is ambiguous. "
        "Set model.reference=start (the base with the adapter: a reward that is initially zero), "
        f"model.reference={source.adapter.base} (the base alone), another model, or none{_ARGUMENTS}"
    )


def _continued(model: ModelConfig, source: ModelSource, prm: CheckpointMetadata | None) -> ModelConfig:
    """`model` with the reference and beta of the implicit PRM that it starts from."""
    if prm is None:
        raise ImplicitPRMError(
            f"model.reference=checkpoint needs an implicit PRM, but model.name={model.name} has no {METADATA_FILE}; "
            f"name a checkpoint of ipr-train, or set model.reference=initial and model.beta=NUMBER{_ARGUMENTS}"
        )
    if model.beta not in (None, prm.beta):
        raise ImplicitPRMError(
            f"model.beta={model.beta}, but {model.name} was trained with beta {prm.beta}, which "
            f"model.reference=checkpoint keeps; set model.beta=null{_ARGUMENTS}"
        )
    reference, revision = prm.reference, prm.reference_revision
    if reference == ADAPTER_OFF:
        assert source.adapter is not None
        reference, revision = source.adapter.base, source.adapter.base_revision
    return replace(model, reference=reference, reference_revision=revision, beta=prm.beta)


def open_initial_policy(initial: InitialModel, arguments: TrainingArguments) -> Any:
    """Open the model to train, without dropout: all of its weights, or a new LoRA adapter on it.

    Args:
        initial: the model.
        arguments: the trainer's, for gradient checkpointing of a quantized model.

    Returns:
        The model, or a PEFT model.

    Raises:
        ImplicitPRMError: it cannot be opened, or `model.lora` does not fit it.
    """
    config, source = initial.config, initial.source
    policy = loading.open_model(source, config.dtype, config.attn_implementation, quantization=config.quantization)
    forward.disable_dropout(policy)
    if config.lora is None:
        return policy
    if config.quantization is not None:
        from peft import prepare_model_for_kbit_training

        policy = prepare_model_for_kbit_training(
            policy, arguments.gradient_checkpointing, arguments.gradient_checkpointing_kwargs
        )
    # PEFT writes it as the base into adapter_config.json, where a relative path would depend on the working folder.
    policy.name_or_path = source.path
    return with_lora(policy, config.lora, config.revision)


def with_lora(policy: Any, lora: LoraConfig, revision: str | None = None) -> Any:
    """Add a new LoRA adapter to a model.

    Args:
        policy: the base model.
        lora: options of the adapter.
        revision: of the base on the hub, for adapter_config.json.

    Returns:
        A PEFT model.

    Raises:
        ImplicitPRMError: the options do not fit the model.
    """
    import peft

    peft_config = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
    return with_adapter(policy, peft_config, revision, "model.lora")


def with_adapter(policy: Any, peft_config: Any, revision: str | None, option: str, causal: bool = True) -> Any:
    """Add a new adapter to a model.

    Args:
        policy: the base model.
        peft_config: a `peft.LoraConfig`, which is changed in place.
        revision: of the base on the hub, for adapter_config.json.
        option: the option that it was given by, for messages.
        causal: the model is a causal LM. Others are wrapped without a task, since PEFT expects certain heads.

    Returns:
        A PEFT model.

    Raises:
        ImplicitPRMError: the options do not fit the model.
    """
    import peft

    peft_config.task_type = "CAUSAL_LM" if causal else None
    try:
        return peft.get_peft_model(policy, peft_config, revision=revision)
    except ValueError as error:
        raise ImplicitPRMError(f"{option}: {error}") from error


def open_reference(initial: InitialModel, tokenizer: Any) -> Any:
    """Open the reference; None if there is none, or if the untrained policy can be used instead.

    Args:
        initial: the model that names it.
        tokenizer: the policy's.

    Returns:
        A model without dropout, or None.

    Raises:
        ImplicitPRMError: it cannot be opened, or reads other tokens than the policy.
    """
    config, source = initial.config, initial.reference_source
    sharded = deepspeed.is_deepspeed_zero3_enabled()  # then only DeepSpeed's engine can run the policy
    if source is None or (config.reference == "initial" and not sharded):
        return None
    if config.reference != "initial":
        loading.check_same_tokens(tokenizer, source)
    with _zero3_disabled():
        reference = loading.open_model(
            source, config.dtype, config.attn_implementation, quantization=config.quantization
        )
    forward.disable_dropout(reference)
    return reference


@contextlib.contextmanager
def _zero3_disabled() -> Iterator[None]:
    """Under ZeRO-3 transformers shards every model that it opens, and only DeepSpeed's engine can run those."""
    config = deepspeed._hf_deepspeed_config_weak_ref and deepspeed._hf_deepspeed_config_weak_ref()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)


def absolute(name: str) -> str:
    """A local folder's absolute path, so that the checkpoint opens from any working folder; a hub id as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name
