"""ImplicitPRMConfig: the arguments of ImplicitPRMTrainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from transformers import TrainingArguments

from implicit_prm.config import LossConfig, StepRule, TextConfig, from_mapping
from implicit_prm.training.arguments import compile_options, refuse_unsupported
from implicit_prm.types import ImplicitPRMError

LossName = Literal["ce", "dpo", "kto", "nca", "prefix", "steps"]
_LOSSES: dict[str, type] = {loss.name: loss for loss in get_args(LossConfig)}


@dataclass
class ImplicitPRMConfig(TrainingArguments):
    """Arguments of `ImplicitPRMTrainer`: transformers' TrainingArguments, some with other defaults, and those below.

    Batch sizes count prompts, each with all of its responses. But `per_device_train_batch_size` counts single responses
    if the loss has `batch_unit="response"`, as `kto` by default: multiply it by the responses per prompt. The defaults
    are those of arXiv 2412.01981: an optimiser step of 8 prompts, and a learning rate of 5e-7 for full weights (an
    adapter needs more, for example 1e-4).

    Args:
        loss: the outcome loss. `ce` and `kto` take each response by itself, `dpo` and `nca` its pairs.
        loss_kwargs: options of the loss, for example `{"desirable_weight": 2.0}` for `kto`. See `implicit_prm.config`.
        beta: the reward is beta x log[pi_theta(y|x) / pi_ref(y|x)]. None takes it from the implicit PRM that training
            continues (`ref_model="checkpoint"`).
        steps: step rule, `blank_line`, `newline`, `step_marker` or `given`. Saved with the checkpoint.
        prompt_template: how a problem becomes a prompt, with `{problem}` in it. Saved with the checkpoint.
        system_prompt: of the chat. Saved with the checkpoint.
        template_kwargs: variables of the chat template, such as `{"enable_thinking": False}`. Saved, too.
        max_length: limit of prompt and response together, in tokens; by default the model's context.
        too_long: `error` or `drop` for longer responses.
        dataset_num_proc: processes that encode data of 20 MB or more; by default one for each CPU core, at most 32.
        dataset_cache: folder where such data are kept encoded, for later runs and for all processes of a machine;
            `default` is $IPR_CACHE/data, or ~/.cache/implicit_prm/data. None encodes in memory.
        max_tokens_per_batch: tokens in one forward pass, padding included; by default what suits the device. It bounds
            memory and changes no result.
        reference_cache: folder of the reference log-probabilities, or `default` ($IPR_CACHE, or ~/.cache/implicit_prm).
        model_init_kwargs: if `model` is a string: `revision`, `dtype`, `attn_implementation` or `trust_remote_code`.
    """

    _VALID_DICT_FIELDS = [  # noqa: RUF012
        *TrainingArguments._VALID_DICT_FIELDS,
        *("loss_kwargs", "template_kwargs", "model_init_kwargs"),
    ]

    per_device_train_batch_size: int = 1
    per_device_eval_batch_size: int = 1
    gradient_accumulation_steps: int = 8
    learning_rate: float = 5e-7
    num_train_epochs: float = 1.0
    lr_scheduler_type: str = "cosine_with_min_lr"
    lr_scheduler_kwargs: dict[str, Any] | str | None = field(default_factory=lambda: {"min_lr_rate": 0.1})
    warmup_steps: float = 0.03
    optim: str = "adamw_torch"
    adam_beta2: float = 0.95
    logging_steps: float = 10
    save_steps: float = 200
    save_total_limit: int | None = 2

    loss: LossName = field(default="ce", metadata={"help": "The outcome loss."})
    loss_kwargs: dict[str, Any] | str | None = field(default=None, metadata={"help": "Options of the loss."})
    beta: float | None = field(default=0.05, metadata={"help": "Scale of the reward beta x log-ratio."})
    steps: StepRule = field(default=TextConfig.steps, metadata={"help": "How a response is split into steps."})
    prompt_template: str = field(
        default=TextConfig.prompt_template, metadata={"help": "How a problem becomes a prompt, with {problem} in it."}
    )
    system_prompt: str | None = field(default=TextConfig.system_prompt, metadata={"help": "System prompt of the chat."})
    template_kwargs: dict[str, Any] | str | None = field(
        default=TextConfig.template_kwargs, metadata={"help": "Variables of the chat template."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Limit of prompt and response together in tokens; default: the context."}
    )
    too_long: Literal["error", "drop"] = field(default="error", metadata={"help": "What to do with longer responses."})
    dataset_num_proc: int | None = field(default=None, metadata={"help": "Processes that encode a large dataset."})
    dataset_cache: str | None = field(default="default", metadata={"help": "Folder of large datasets, encoded."})
    max_tokens_per_batch: int | None = field(default=None, metadata={"help": "Tokens in one forward pass."})
    reference_cache: str = field(default="default", metadata={"help": "Folder of the reference log-probabilities."})
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "revision, dtype, attn_implementation or trust_remote_code of the model."}
    )

    def __post_init__(self) -> None:
        refuse_unsupported(vars(self))
        self.compile_options = compile_options(vars(self))
        self.torch_compile, self.torch_compile_mode, self.torch_compile_backend = False, None, None
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
        self.ddp_find_unused_parameters = False
        super().__post_init__()
        for name in ("max_length", "dataset_num_proc", "max_tokens_per_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ImplicitPRMError(f"{name}={value}: expected at least 1")
        self.loss_config, self.text = self._loss_config(), self._text()

    def _loss_config(self) -> LossConfig:
        if self.loss not in _LOSSES:
            raise ImplicitPRMError(f"loss={self.loss}: expected one of {', '.join(_LOSSES)}")
        return from_mapping(_LOSSES[self.loss], self.loss_kwargs or {}, "loss_kwargs.")  # type: ignore[arg-type]

    def _text(self) -> TextConfig:
        names = ("steps", "prompt_template", "system_prompt", "template_kwargs")
        return from_mapping(TextConfig, {name: getattr(self, name) for name in names})
