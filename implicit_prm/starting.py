"""What training starts from: the policy, its adapter, its reference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import deepspeed

from implicit_prm import adapters, backbone
from implicit_prm.config import LoraConfig, ModelConfig
from implicit_prm.data.files import atomic_folder
from implicit_prm.records import ImplicitPRMError
from implicit_prm.settings import NONE

START_FOLDER = "start"  # in the output folder: the starting weights, where they are a base with an adapter merged in


def resolve(
    model: ModelConfig, output_dir: str, arguments: TrainingArguments, resumed: bool, say: Callable[[str], None]
) -> ModelConfig:
    """`model` with a plain model as its start and a reference that is `initial`, `none` or named.

    Where the start is an adapter, it is merged into its base and saved in `output_dir/start`: the checkpoint then
    stands on a folder of its own, which plain transformers and PEFT open as well. A resumed run finds it there.

    Raises:
        ImplicitPRMError: the start is an adapter and `model.reference` leaves open what its reference is.
    """
    adapter = adapters.find(backbone.locate(model.name), model.revision)
    reference = "initial" if model.reference == "start" else model.reference
    if adapter is None:
        return replace(model, reference=reference)
    if model.reference == "initial":
        raise ImplicitPRMError(
            f"model.name={model.name} is a LoRA adapter on {adapter.base}, so its initial reference could be either. "
            "Choose: model.reference=start (the base with the adapter, where this training starts), "
            f"model.reference={adapter.base} (the base alone), another model, or none"
        )
    folder = Path(output_dir).resolve() / START_FOLDER
    with arguments.main_process_first(desc="merging the adapter that training starts from"):
        if arguments.local_process_index == 0 and not (resumed and folder.is_dir()):
            say(f"model.name: merging the adapter {model.name} into {adapter.base}, kept in {folder}")
            merged, tokenizer = backbone.open_model(model), backbone.open_tokenizer(model)
            with atomic_folder(folder, replace_old=True) as unfinished:
                merged.save_pretrained(unfinished)
                tokenizer.save_pretrained(unfinished)
    return replace(model, name=str(folder), revision=None, reference=reference)


def open_policy(model: ModelConfig, arguments: TrainingArguments) -> Any:
    """The model to train, without dropout: all of its weights, or a new LoRA adapter on it (perhaps quantised).

    Raises:
        ImplicitPRMError: it cannot be opened, or `model.lora` does not fit it.
    """
    policy = backbone.open_model(model, quantization=model.quantization)
    backbone.disable_dropout(policy)
    if model.lora is None:
        return policy
    if model.quantization is not None:
        from peft import prepare_model_for_kbit_training

        policy = prepare_model_for_kbit_training(
            policy, arguments.gradient_checkpointing, arguments.gradient_checkpointing_kwargs
        )
    # What adapter_config.json will call the base: a path that holds from anywhere.
    policy.name_or_path = absolute(backbone.locate(model.name))
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
        backbone.check_same_tokens(tokenizer, model.reference, model.reference_revision)
        named = replace(model, name=model.reference, revision=model.reference_revision)
    with _whole_weights():
        reference = backbone.open_model(named, quantization=model.quantization)
    backbone.disable_dropout(reference)
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
