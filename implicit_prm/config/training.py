"""Options of `ipr-train`: the losses, the data, the run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from implicit_prm.config.estimation import EstimateConfig
from implicit_prm.config.mapping import at_least
from implicit_prm.config.models import ModelConfig, TextConfig
from implicit_prm.types import ImplicitPRMError

# What `per_device_train_batch_size` counts: prompts with all of their responses, or single responses of any prompt.
BatchUnit = Literal["prompt", "response"]


@dataclass
class DPOConfig:
    name: Literal["dpo"] = "dpo"
    pairing: Literal["all", "one_to_one"] = "all"

    needs_pairs = True
    needs_step_labels = False
    by_response = False
    single_responses = False


@dataclass
class NCAConfig:
    name: Literal["nca"] = "nca"
    form: Literal["pair", "group"] = "pair"
    pairing: Literal["all", "one_to_one"] = "all"

    needs_pairs = True
    needs_step_labels = False
    by_response = False
    single_responses = False

    def validate(self) -> None:
        if self.form == "group" and self.pairing != "all":
            raise ImplicitPRMError(
                "loss.pairing has no meaning for loss.form=group, which forms no pairs; leave it out"
            )


@dataclass
class KTOConfig:
    name: Literal["kto"] = "kto"
    form: Literal["unpaired", "paired"] = "unpaired"
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    batch_unit: BatchUnit | None = None

    needs_step_labels = False

    @property
    def needs_pairs(self) -> bool:
        return self.form == "paired"

    @property
    def by_response(self) -> bool:
        return self.form == "unpaired"

    @property
    def single_responses(self) -> bool:
        return self.form == "unpaired" and self.batch_unit != "prompt"

    def validate(self) -> None:
        if self.form == "paired" and self.batch_unit == "response":
            raise ImplicitPRMError(
                "loss.batch_unit=response: loss.form=paired compares the responses of a prompt; use batch_unit=prompt"
            )
        for key in ("desirable_weight", "undesirable_weight"):
            if getattr(self, key) <= 0:
                raise ImplicitPRMError(f"loss.{key} is {getattr(self, key)}; it must be above zero")


@dataclass
class CEConfig:
    name: Literal["ce"] = "ce"
    balance: Literal["none", "dataset", "prompt"] = "none"
    offset: Literal["none", "group_mean", "prompt_accuracy"] = "none"
    batch_unit: BatchUnit = "prompt"

    needs_step_labels = False

    @property
    def needs_pairs(self) -> bool:
        return self.offset == "group_mean"

    @property
    def by_response(self) -> bool:
        return self.offset == "none"

    @property
    def single_responses(self) -> bool:
        return self.batch_unit == "response"

    def validate(self) -> None:
        if self.offset != "none" and self.batch_unit == "response":
            raise ImplicitPRMError(
                f"loss.batch_unit=response: loss.offset={self.offset} compares the responses of a prompt; use "
                "batch_unit=prompt"
            )
        if self.offset == "prompt_accuracy" and self.balance == "prompt":
            raise ImplicitPRMError(
                "loss.balance=prompt makes the accuracy of every prompt one half, where loss.offset=prompt_accuracy "
                "shifts nothing; drop one of them"
            )


@dataclass
class PrefixConfig:
    name: Literal["prefix"] = "prefix"
    margin: float = 5.0
    batch_unit: BatchUnit = "prompt"

    needs_pairs = False
    needs_step_labels = False
    by_response = True

    @property
    def single_responses(self) -> bool:
        return self.batch_unit == "response"

    def validate(self) -> None:
        at_least(self, 0.0, "margin", where="loss.")


@dataclass
class StepsConfig:
    name: Literal["steps"] = "steps"
    batch_unit: BatchUnit = "prompt"

    needs_pairs = False
    needs_step_labels = True
    by_response = True

    @property
    def single_responses(self) -> bool:
        return self.batch_unit == "response"


# needs_pairs: prompts without a correct-incorrect pair are of no use. needs_step_labels: the column step_labels is
# trained on. by_response: the loss is a sum over responses, as all are that read the rewards of tokens.
# single_responses: an optimiser step draws responses, not prompts with all of theirs.
LossConfig = DPOConfig | NCAConfig | KTOConfig | CEConfig | PrefixConfig | StepsConfig


@dataclass
class DataConfig(TextConfig):
    """Graded responses to train on."""

    train: str = ""
    train_split: str = "train"
    dev: str | None = None
    dev_split: str = "train"
    revision: str | None = None
    dev_revision: str | None = None
    hold_out_prompts: int = 0
    max_prompts: int | None = None
    max_responses: int | None = None
    max_length: int | None = None
    too_long: Literal["error", "drop"] = "error"

    def validate(self) -> None:
        super().validate()
        at_least(self, 1, "max_prompts", "max_responses", "max_length", where="data.")
        at_least(self, 0, "hold_out_prompts", where="data.")
        if not self.train:
            raise ImplicitPRMError("data.train is empty; name a file of graded responses (ipr-rollout writes one)")
        if self.dev_revision and not self.dev:
            raise ImplicitPRMError(f"data.dev_revision={self.dev_revision} is set but data.dev is not; drop it")
        if self.dev and self.hold_out_prompts:
            raise ImplicitPRMError("data.dev and data.hold_out_prompts both name a dev set; keep one of them")


@dataclass
class TrainConfig:
    model: ModelConfig
    data: DataConfig
    loss: LossConfig
    output_dir: str
    trainer: dict[str, Any] = field(default_factory=dict)
    overwrite: bool = False
    max_tokens_per_batch: int | None = None
    reference_cache: str = "default"
    push_to_hub: str | None = None
    hub_private: bool = True
    estimate: EstimateConfig | None = None

    def validate(self) -> None:
        at_least(self, 1, "max_tokens_per_batch")
        if self.push_to_hub is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.push_to_hub):
            raise ImplicitPRMError(f"push_to_hub={self.push_to_hub}: name a repository on the hub, as ORG/NAME")
        if self.trainer.get("output_dir"):
            raise ImplicitPRMError("set output_dir at the top level, not trainer.output_dir")
        wants_eval = str(self.trainer.get("eval_strategy", "no")) != "no"
        if wants_eval and not (self.data.dev or self.data.hold_out_prompts):
            raise ImplicitPRMError(
                f"trainer.eval_strategy={self.trainer['eval_strategy']} needs a dev set; give data.dev=FILE or "
                "data.hold_out_prompts=50, or set trainer.eval_strategy=no"
            )
        if self.loss.name == "kto" and self.loss.form == "unpaired" and self.data.max_prompts == 1:
            raise ImplicitPRMError("loss=kto needs at least two prompts: its KL is estimated on mismatched pairs")
