"""ImplicitPRMTrainer: trains an implicit PRM from a model, a dataset and arguments, as TRL's trainers do."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed
from transformers.trainer_utils import TrainOutput, get_last_checkpoint

from implicit_prm.config import ModelConfig, from_mapping
from implicit_prm.data import training_set
from implicit_prm.data.readers import Source
from implicit_prm.data.tokenization import Encoder, context_length
from implicit_prm.models import forward, loading
from implicit_prm.models.checkpoint import NONE
from implicit_prm.models.source import ModelSource
from implicit_prm.training import initial_model
from implicit_prm.training.initial_model import START_FOLDER, InitialModel
from implicit_prm.training.log_ratio_trainer import LogRatioTrainer
from implicit_prm.training.prepare import (
    Say,
    checkpoint_metadata,
    group_datasets,
    load_sets,
    outcome_encoding,
    report_sets,
)
from implicit_prm.training.prm_config import ImplicitPRMConfig
from implicit_prm.training.reference_pass import add_reference_logprobs
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.distributed import spoken_once
from implicit_prm.utils.io import atomic_folder
from implicit_prm.utils.lock import locked

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel


class ImplicitPRMTrainer(LogRatioTrainer):
    """Trains a process reward model on labels of whole responses (Yuan et al., arXiv 2412.01981).

    The constructor opens the model, encodes the data and computes the reference log-probabilities, which are cached on
    disk: no reference model is held while training. `save_model` writes a folder that `ImplicitPRM.from_pretrained`
    and plain transformers or PEFT open. `ipr-train` runs the same trainer (`LogRatioTrainer`) on its own options.

    Example:
        >>> trainer = ImplicitPRMTrainer(
        ...     model="Qwen/Qwen2.5-0.5B-Instruct",
        ...     args=ImplicitPRMConfig(output_dir="prm", loss="ce", beta=0.05),
        ...     train_dataset=load_dataset("json", data_files="rollouts.jsonl", split="train"),
        ...     peft_config=LoraConfig(r=16),
        ... )
        >>> trainer.train()
        >>> trainer.save_model()

    Args:
        model: hub id or path of a causal LM, the model itself, or a PEFT model, whose adapter is trained. A model must
            have the weights that its `name_or_path` stands for: the checkpoint refers to it by that name.
        ref_model: the reference. By default the initial model; with an adapter, that is the base without it. Else a hub
            id, a path or a model. `none` trains beta x log pi_theta. If `model` is a string, also `start` or
            `checkpoint`, as for `model.reference` of `ipr-train`.
        args: the arguments; by default those of `ImplicitPRMConfig("trainer_output")`.
        train_dataset: a `datasets.Dataset` or a list of rows, in TRL's columns (prompt, completion, label; or prompt,
            chosen, rejected) or grouped (prompt, completions, correctness).
        eval_dataset: the same.
        processing_class: the tokenizer; by default the model's.
        callbacks: as for transformers' Trainer.
        optimizers: as for transformers' Trainer.
        peft_config: a `peft.LoraConfig`, to train an adapter rather than all weights.

    Raises:
        ImplicitPRMError: invalid arguments, rows or models.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        ref_model: str | PreTrainedModel | None = None,
        args: ImplicitPRMConfig | None = None,
        train_dataset: Source | None = None,
        eval_dataset: Source | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: LoraConfig | None = None,
    ) -> None:
        args = args or ImplicitPRMConfig("trainer_output")
        if train_dataset is None:
            raise ImplicitPRMError("train_dataset: expected a dataset, got None")
        set_seed(args.seed)
        say, loss = spoken_once(print), args.loss_config
        unread = training_set.unread_rows(train_dataset, eval_dataset, loss, args.seed)
        initial = _initial_model(model, ref_model, args, processing_class, say)
        encoder = Encoder(processing_class or loading.open_tokenizer(initial.source), args.text)
        model_config = loading.open_config(initial.source) if isinstance(model, str) else model.config
        limit = context_length(model_config, args.max_length)
        encoding = outcome_encoding(encoder, loss, limit, args.too_long)
        sets = load_sets(unread, encoding, args, cache=args.dataset_cache, num_proc=args.dataset_num_proc, say=say)
        report_sets(sets, loss, args, say)
        policy = _policy(model, initial, args, peft_config)
        loading.check_embeds(policy, encoder)
        start = (model, initial.config.revision) if isinstance(model, str) else _name_of(model)
        lora = _lora_options(model, peft_config)
        metadata = checkpoint_metadata(initial, start, lora, encoder, loss, sets["train"], args.max_length)
        datasets = group_datasets(sets, loss, limit)
        if metadata.reference != NONE:
            add_reference_logprobs(
                initial,
                args,
                policy,
                encoder,
                list(datasets.values()),
                folder=None if args.reference_cache == "default" else args.reference_cache,
                max_tokens=args.max_tokens_per_batch,
                reference=ref_model if isinstance(ref_model, PreTrainedModel) else None,
                in_memory=not isinstance(model, str),
            )
        if args.compile_options is not None:
            forward.compile_blocks(policy, **args.compile_options)
        super().__init__(
            model=policy,
            args=args,
            loss=loss,
            metadata=metadata,
            max_tokens=args.max_tokens_per_batch,
            train_dataset=datasets["train"],
            eval_dataset=datasets.get("dev"),
            processing_class=encoder.tokenizer,
            callbacks=callbacks or (),
            optimizers=optimizers,
        )

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """As transformers' `Trainer.train`.

        Raises:
            ImplicitPRMError: the checkpoint to resume from was trained with other options or data; or training
                diverged.
        """
        checkpoint = resume_from_checkpoint
        if checkpoint is True:
            checkpoint = get_last_checkpoint(str(self.args.output_dir))
        if checkpoint:
            self.metadata.check_same_run(str(checkpoint), str(self.args.output_dir))
        with locked(self.args.output_dir, inside=True):
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)


def _initial_model(
    model: str | PreTrainedModel | PeftModel,
    ref_model: str | PreTrainedModel | None,
    args: ImplicitPRMConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    say: Say,
) -> InitialModel:
    """The files of the initial model, its reference and beta."""
    reference = ref_model if isinstance(ref_model, str) else "initial"
    if isinstance(ref_model, PreTrainedModel):
        reference = str(ref_model.name_or_path)
    values = {"beta": args.beta, "reference": reference}
    if isinstance(model, str):
        config = from_mapping(ModelConfig, {"name": model, **(args.model_init_kwargs or {}), **values})  # type: ignore[dict-item]
        return initial_model.resolve(config, str(args.output_dir), args, False, say)
    if args.model_init_kwargs:
        raise ImplicitPRMError("model_init_kwargs needs a model that is given by name")
    name, revision = _name_of(model)
    if not name:
        name = _saved_start(model, args, tokenizer)
    config = from_mapping(ModelConfig, {"name": name, "revision": revision, **values})
    if getattr(model, "is_loaded_in_4bit", False):
        config.quantization = "4bit"
    return InitialModel(config, ModelSource.of(config))


def _name_of(model: Any) -> tuple[str, str | None]:
    """Name and revision of a model's full weights; below the adapter of a PEFT model."""
    if hasattr(model, "peft_config"):
        config = model.peft_config["default"]
        return config.base_model_name_or_path or "", config.revision
    return model.name_or_path, getattr(model.config, "_commit_hash", None)


def _saved_start(model: Any, args: ImplicitPRMConfig, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """Save a model that has no name, so that the checkpoint can refer to its weights."""
    if tokenizer is None:
        raise ImplicitPRMError("processing_class: a model without name_or_path needs a tokenizer")
    folder = Path(str(args.output_dir)).resolve() / START_FOLDER
    with args.main_process_first(desc="saving the initial model"):
        if args.local_process_index == 0:
            with locked(folder), atomic_folder(folder, replace_old=True) as unfinished:
                (model.get_base_model() if hasattr(model, "peft_config") else model).save_pretrained(unfinished)
                tokenizer.save_pretrained(unfinished)
    return str(folder)


def _policy(
    model: str | PreTrainedModel | PeftModel,
    initial: InitialModel,
    args: ImplicitPRMConfig,
    peft_config: LoraConfig | None,
) -> Any:
    """The model to train, without dropout, with a new adapter if `peft_config` asks for one."""
    if isinstance(model, str):
        policy = initial_model.open_initial_policy(initial, args)
    else:
        policy = model
        forward.disable_dropout(policy)
    if peft_config is None:
        return policy
    if hasattr(policy, "peft_config"):
        raise ImplicitPRMError("peft_config: the model has an adapter already; leave it out to train that one")
    if initial.config.quantization is not None:
        from peft import prepare_model_for_kbit_training

        policy = prepare_model_for_kbit_training(policy, args.gradient_checkpointing)
    policy.name_or_path = initial.source.path  # PEFT writes it into adapter_config.json
    return initial_model.with_adapter(policy, copy.deepcopy(peft_config), initial.config.revision, "peft_config")


def _lora_options(model: str | PreTrainedModel | PeftModel, peft_config: LoraConfig | None) -> dict[str, Any] | None:
    """Options of the adapter, for the checkpoint's metadata; None if all weights are trained."""
    config: Any = peft_config or getattr(model, "peft_config", {}).get("default")
    if config is None:
        return None
    if not hasattr(config, "lora_alpha"):
        raise ImplicitPRMError(f"peft_config: expected a peft.LoraConfig, got {type(config).__name__}")
    targets = config.target_modules
    return {
        "r": config.r,
        "alpha": config.lora_alpha,
        "dropout": config.lora_dropout,
        "target_modules": sorted(targets) if isinstance(targets, set) else targets,
    }
