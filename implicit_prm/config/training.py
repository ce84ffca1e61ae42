"""Options of `ipr-train`: the losses, the data, the run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from implicit_prm.config.estimation import EstimateConfig
from implicit_prm.config.models import ModelConfig, StepRule, TextConfig
from implicit_prm.config.validation import check_range
from implicit_prm.types import ImplicitPRMError

# Class attributes of every loss:
#   needs_pairs        it only uses prompts with both correct and incorrect responses
#   needs_step_labels  it trains on the data's column `step_labels`
#   by_response        it is a sum over responses, so a group can be split into micro-batches anywhere
#   single_responses   an optimiser step draws single responses, not prompts with all of their responses

# What `per_device_train_batch_size` counts: prompts with all of their responses, or single responses of any prompt.
BatchUnit = Literal["prompt", "response"]


@dataclass
class DPOConfig:
    """DPO: -log sigmoid of the difference of two rewards, over correct-incorrect pairs.

    Args:
        pairing: `all` pairs of a prompt, or the i-th correct with the i-th incorrect response.
    """

    name: Literal["dpo"] = "dpo"
    pairing: Literal["all", "one_to_one"] = "all"

    needs_pairs = True
    needs_step_labels = False
    by_response = False
    single_responses = False


@dataclass
class NCAConfig:
    """Noise contrastive alignment.

    Args:
        form: `pair` over pairs of responses, or `group` over all responses of a prompt.
        pairing: As in DPO, for `form="pair"`.
    """

    name: Literal["nca"] = "nca"
    form: Literal["pair", "group"] = "pair"
    pairing: Literal["all", "one_to_one"] = "all"

    needs_pairs = True
    needs_step_labels = False
    by_response = False
    single_responses = False

    def validate(self) -> None:
        if self.form == "group" and self.pairing != "all":
            raise ImplicitPRMError("loss.pairing is not used with loss.form=group, which forms no pairs; leave it out")


@dataclass
class KTOConfig:
    """KTO.

    Args:
        form: `unpaired`, with the KL estimated on mismatched prompts and responses; or `paired`, against the mean
            reward of the prompt's responses of the other class.
        desirable_weight: Weight of correct responses.
        undesirable_weight: Weight of incorrect responses.
        batch_unit: What an optimiser step draws; None is `response` for `form="unpaired"`, `prompt` for
            `form="paired"`.
    """

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
        check_range(self, "desirable_weight", "undesirable_weight", above=0, where="loss.")


@dataclass
class CEConfig:
    """Cross-entropy of the label, with the reward as the logit.

    Args:
        balance: Down-sample the more frequent label over the `dataset`, within every `prompt`, or not (`none`).
        offset: What is subtracted from the reward: nothing, the mean reward of the prompt's responses (`group_mean`),
            or minus the log-odds of the prompt's accuracy (`prompt_accuracy`).
        batch_unit: What an optimiser step draws.
    """

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
                "loss.balance=prompt makes the accuracy of every prompt one half, so loss.offset=prompt_accuracy has "
                "no effect; leave one of them out"
            )


@dataclass
class PrefixConfig:
    """Cross-entropy of the label at every prefix, on the mean reward of its tokens (IPVRM, arXiv 2604.13197).

    Args:
        margin: Target of a correct prefix' mean reward; minus the margin is that of an incorrect one's.
        batch_unit: What an optimiser step draws.
    """

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
        check_range(self, "margin", at_least=0, where="loss.")


@dataclass
class StepsConfig:
    """Squared error between the sigmoid of a step's reward and the step's label.

    Args:
        batch_unit: What an optimiser step draws.
    """

    name: Literal["steps"] = "steps"
    batch_unit: BatchUnit = "prompt"

    needs_pairs = False
    needs_step_labels = True
    by_response = True

    @property
    def single_responses(self) -> bool:
        return self.batch_unit == "response"


LossConfig = DPOConfig | NCAConfig | KTOConfig | CEConfig | PrefixConfig | StepsConfig


@dataclass(kw_only=True)
class DataConfig:
    """Graded responses to train on.

    Args:
        train: Local file or folder, or a dataset on the hub.
        train_split: Split of a folder or hub dataset.
        dev: Source of the dev set.
        dev_split: Split of the dev set's source.
        revision: Branch, tag or commit of `train` on the hub.
        dev_revision: Branch, tag or commit of `dev` on the hub.
        hold_out_prompts: Number of prompts of `train` to use as the dev set instead.
        max_prompts: Number of prompts to use, from the first; None for all.
        max_responses: Number of responses per prompt to use, drawn at random; None for all.
        steps: Where a step ends.
        prompt_template: The user's turn, with {problem} for the prompt's text.
        system_prompt: System message, or None.
        template_kwargs: Variables of the chat template, or None.
        max_length: Maximum length of prompt + response in tokens; None for the model's context.
        too_long: What to do with a longer response: stop with an `error`, or `drop` it.
        num_proc: Processes that encode data of 20 MB or more; None for one per CPU core, at most 32.
        cache: Folder where such data are kept encoded; `default` is $IPR_CACHE/data, or ~/.cache/implicit_prm/data.
            None encodes in memory, in every process of every run.
    """

    train: str
    train_split: str = "train"
    dev: str | None = None
    dev_split: str = "train"
    revision: str | None = None
    dev_revision: str | None = None
    hold_out_prompts: int = 0
    max_prompts: int | None = None
    max_responses: int | None = None
    steps: StepRule = TextConfig.steps
    prompt_template: str = TextConfig.prompt_template
    system_prompt: str | None = TextConfig.system_prompt
    template_kwargs: dict[str, Any] | None = TextConfig.template_kwargs
    max_length: int | None = None
    too_long: Literal["error", "drop"] = "error"
    num_proc: int | None = None
    cache: str | None = "default"

    @property
    def text(self) -> TextConfig:
        """How prompts are rendered and responses split into steps."""
        return TextConfig(self.steps, self.prompt_template, self.system_prompt, self.template_kwargs)

    def validate(self) -> None:
        self.text.validate("data.")
        check_range(self, "max_prompts", "max_responses", "max_length", "num_proc", at_least=1, where="data.")
        check_range(self, "hold_out_prompts", at_least=0, where="data.")
        if not self.train:
            raise ImplicitPRMError("data.train is empty; name a file of graded responses (ipr-rollout writes one)")
        if self.dev_revision and not self.dev:
            raise ImplicitPRMError(
                f"data.dev_revision={self.dev_revision} is not used without data.dev; leave it out, or set data.dev"
            )
        if self.dev and self.hold_out_prompts:
            raise ImplicitPRMError("data.dev and data.hold_out_prompts both give a dev set; set only one")


@dataclass
class TrainConfig:
    """`ipr-train`: train an implicit PRM on graded responses.

    Args:
        model: Policy, reference and beta.
        data: Graded responses.
        loss: The loss and its options.
        output_dir: Folder for checkpoints, `implicit_prm.json` and `log.jsonl`.
        trainer: Options of `transformers.TrainingArguments`.
        overwrite: Train from the start even if `output_dir` holds a model.
        max_tokens_per_batch: Tokens per forward pass, with padding; None for a default by device. Changes no result.
        reference_cache: Folder for the reference's log-probabilities; `default` is $IPR_CACHE, or
            ~/.cache/implicit_prm.
        push_to_hub: Repository on the hub (ORG/NAME) to upload the trained model to.
        hub_private: Create that repository as private.
        estimate: Only estimate memory and time on this machine.
    """

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
        check_range(self, "max_tokens_per_batch", at_least=1)
        check_trainer(self.trainer, self.data)
        if self.push_to_hub is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.push_to_hub):
            raise ImplicitPRMError(f"push_to_hub={self.push_to_hub}: expected a repository on the hub, as ORG/NAME")
        if self.loss.name == "kto" and self.loss.form == "unpaired" and self.data.max_prompts == 1:
            raise ImplicitPRMError("loss=kto needs at least two prompts: its KL is estimated on mismatched pairs")


def check_trainer(trainer: dict[str, Any], data: DataConfig) -> None:
    """Refuse an output folder among the trainer's options, and an evaluation without a dev set."""
    if trainer.get("output_dir"):
        raise ImplicitPRMError("set output_dir at the top level, not trainer.output_dir")
    strategy = trainer.get("eval_strategy", "no")
    if str(strategy) != "no" and not (data.dev or data.hold_out_prompts):
        raise ImplicitPRMError(
            f"trainer.eval_strategy={strategy} needs a dev set; set data.dev=FILE or data.hold_out_prompts=50, or "
            "trainer.eval_strategy=no"
        )
