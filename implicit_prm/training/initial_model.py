"""What training starts from: the policy, its adapter, its reference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import deepspeed

from implicit_prm.config import LoraConfig, ModelConfig
from implicit_prm.models import forward, loading, lora
from implicit_prm.models.checkpoint import ADAPTER_OFF, NONE, SETTINGS_FILE, Settings
from implicit_prm.models.implicit_prm import open_policy as open_prm_policy
from implicit_prm.models.implicit_prm import saved_settings
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.io import atomic_folder

START_FOLDER = "start"  # in the output folder: the starting weights, where they are a base with an adapter merged in


def resolve(
    model: ModelConfig, output_dir: str, arguments: TrainingArguments, resumed: bool, say: Callable[[str], None]
) -> ModelConfig:
    """`model` with a plain model as its start, a reference that is `initial`, `none` or named, and a number for beta.

    Where the start is an adapter, it is merged into its base and saved in `output_dir/start`: the checkpoint then
    stands on a folder of its own, which plain transformers and PEFT open as well. A resumed run finds it there.
    Where it is an implicit PRM, `model.reference=checkpoint` goes on with its reward: with its reference and beta.

    Raises:
        ImplicitPRMError: the start is an adapter or an implicit PRM and `model.reference` leaves open what its
            reference is; there is no reward to go on with, or it has another beta.
    """
    adapter = lora.find(loading.locate(model.name), model.revision)
    prm = _implicit_prm(model)
    if model.reference == "initial" and (adapter is not None or prm is not None):
        raise ImplicitPRMError(_choices(model, adapter, prm))
    if model.reference == "checkpoint":
        model = _going_on(model, adapter, prm)
    reference = "initial" if model.reference == "start" else model.reference
    if adapter is None:
        return replace(model, reference=reference)
    folder = Path(output_dir).resolve() / START_FOLDER
    with arguments.main_process_first(desc="merging the adapter that training starts from"):
        if arguments.local_process_index == 0 and not (resumed and folder.is_dir()):
            say(f"model.name: merging the adapter {model.name} into {adapter.base}, kept in {folder}")
            merged, tokenizer = _merged(model, prm), loading.open_tokenizer(model)
            with atomic_folder(folder, replace_old=True) as unfinished:
                merged.save_pretrained(unfinished)
                tokenizer.save_pretrained(unfinished)
    return replace(model, name=str(folder), revision=None, reference=reference)


def _implicit_prm(model: ModelConfig) -> Settings | None:
    """The settings of the implicit PRM that training starts from; None if it starts from any other model."""
    if "/" not in model.name and not Path(model.name).is_dir():
        return None  # in the package, or one of the hub's oldest ids
    return saved_settings(model.name, model.revision)


def _choices(model: ModelConfig, adapter: lora.Adapter | None, prm: Settings | None) -> str:
    """What `model.reference` may be where the initial model could be two things."""
    if prm is not None:
        reference = "its base" if prm.reference == ADAPTER_OFF else prm.reference
        return (
            f"model.name={model.name} is an implicit PRM (beta {prm.beta}, reference {reference}), so its initial "
            "reference could be either. Choose: model.reference=checkpoint model.beta=null (go on with its reward), "
            f"model.reference=start ({model.name} itself: a new reward, which begins at zero), another model, or none"
        )
    assert adapter is not None
    return (
        f"model.name={model.name} is a LoRA adapter on {adapter.base}, so its initial reference could be either. "
        "Choose: model.reference=start (the base with the adapter, where this training starts), "
        f"model.reference={adapter.base} (the base alone), another model, or none"
    )


def _going_on(model: ModelConfig, adapter: lora.Adapter | None, prm: Settings | None) -> ModelConfig:
    """`model` with the reference and beta of the implicit PRM that it starts from."""
    if prm is None:
        raise ImplicitPRMError(
            f"model.reference=checkpoint goes on with an implicit PRM, and model.name={model.name} is none (it has no "
            f"{SETTINGS_FILE}); name one that ipr-train wrote, or set model.reference=initial and model.beta=NUMBER"
        )
    if model.beta not in (None, prm.beta):
        raise ImplicitPRMError(
            f"model.beta={model.beta}, but {model.name} was trained with beta {prm.beta}, and "
            "model.reference=checkpoint goes on with its reward; set model.beta=null to take its own"
        )
    reference, revision = prm.reference, prm.reference_revision
    if reference == ADAPTER_OFF:
        assert adapter is not None
        reference, revision = prm.base or adapter.base, prm.base_revision if prm.base else adapter.base_revision
    return replace(model, reference=reference, reference_revision=revision, beta=prm.beta)


def _merged(model: ModelConfig, prm: Settings | None) -> Any:
    """An adapter in its base. An implicit PRM's settings know best where that is: its folder may have been moved."""
    if prm is None:
        return loading.open_model(model)
    policy = open_prm_policy(model, replace(prm, quantization=None))
    return lora.merge(policy) if hasattr(policy, "merge_and_unload") else policy


def open_policy(model: ModelConfig, arguments: TrainingArguments) -> Any:
    """The model to train, without dropout: all of its weights, or a new LoRA adapter on it (perhaps quantised).

    Raises:
        ImplicitPRMError: it cannot be opened, or `model.lora` does not fit it.
    """
    policy = loading.open_model(model, quantization=model.quantization)
    forward.disable_dropout(policy)
    if model.lora is None:
        return policy
    if model.quantization is not None:
        from peft import prepare_model_for_kbit_training

        policy = prepare_model_for_kbit_training(
            policy, arguments.gradient_checkpointing, arguments.gradient_checkpointing_kwargs
        )
    # What adapter_config.json will call the base: a path that holds from anywhere.
    policy.name_or_path = absolute(loading.locate(model.name))
    return with_lora(policy, model.lora, model.revision)


def with_lora(policy: Any, lora: LoraConfig, revision: str | None = None) -> Any:
    """A new adapter on a model; raises ImplicitPRMError if `lora` does not fit it."""
    import peft

    peft_config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
    try:
        return peft.get_peft_model(policy, peft_config, revision=revision)
    except ValueError as error:
        raise ImplicitPRMError(f"model.lora: {error}") from error


def open_reference(model: ModelConfig, tokenizer: Any) -> Any:
    """The named reference; None where there is none, or where the policy itself can be asked before it is trained.

    Raises:
        ImplicitPRMError: it cannot be opened, or reads other tokens than the policy.
    """
    sliced = deepspeed.is_deepspeed_zero3_enabled()
    if model.reference == NONE or (model.reference == "initial" and not sliced):
        return None
    named = model
    if model.reference != "initial":
        loading.check_same_tokens(tokenizer, model.reference, model.reference_revision)
        named = replace(model, name=model.reference, revision=model.reference_revision)
    with _whole_weights():
        reference = loading.open_model(named, quantization=model.quantization)
    forward.disable_dropout(reference)
    return reference


@contextlib.contextmanager
def _whole_weights() -> Iterator[None]:
    """Under ZeRO-3 transformers opens every model in slices that only DeepSpeed's engine can run; not this one."""
    settings = deepspeed._hf_deepspeed_config_weak_ref and deepspeed._hf_deepspeed_config_weak_ref()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if settings is not None:
            deepspeed.set_hf_deepspeed_config(settings)


def absolute(name: str) -> str:
    """A local folder by its full path, so that the checkpoint opens from anywhere; a hub id as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name
