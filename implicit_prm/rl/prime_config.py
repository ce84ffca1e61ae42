"""PrimeConfig: the arguments of PrimeTrainer."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal, get_type_hints

from trl import GRPOConfig

from implicit_prm.config import CEConfig, PrefixConfig, convert
from implicit_prm.config.validation import check_range
from implicit_prm.rl.advantages import Baseline, Scale
from implicit_prm.types import ImplicitPRMError

# Options that only an update of the PRM reads.
_OF_UPDATES = ("prm_loss", "prm_margin", "prm_offset", "prm_class_weight", "prm_learning_rate", "prm_max_grad_norm")
_CHOICES = (
    *("granularity", "credit", "baseline", "process_scale"),
    *("prm_update", "prm_reference", "prm_loss", "prm_offset", "prm_class_weight"),
)


@dataclass
class PrimeConfig(GRPOConfig):
    """Arguments of `PrimeTrainer`: TRL's GRPOConfig, whose `scale_rewards` is `none` here, and those below.

    Args:
        process_coef: weight of the process advantages; that of the outcome's is 1. With 0, a PRM is only logged.
        granularity: units of process rewards, `step` or `token`.
        credit: what the rewards say of a unit. Its return: the lowest of the rewards that follow (`min`), or the `sum`.
            `value`: the rewards before it are the log-odds of a correct answer, and the PRM is a critic.
        gamma: discount of process rewards per unit with `credit=sum`.
        gae_lambda: of generalized advantage estimation with `credit=value`. With 1, rewards do not bias the gradient.
        baseline: `leave_one_out` or `group_mean`, of process rewards and of outcomes. With `group_mean` the outcome
            advantages are GRPOTrainer's own, with its `scale_rewards`.
        process_scale: what process advantages are divided by: `none`, `group_std`, `batch_std` or `batch_max`.
        whiten: give the sum of both advantages mean 0 and standard deviation 1 over the tokens of the batch.
        shuffle_process_rewards: permute the process rewards within each response, as a control.
        accuracy_range: lowest and highest share of correct responses of a prompt that is trained on, by default all.
            Other prompts have advantage 0, and the PRM does not learn from them.
        outcome_reward: name of the reward function that says whether a response is correct (a reward above 0.5). Needed
            if there are several, with a PRM or `accuracy_range`.
        prm_update: `none` keeps the PRM frozen; it learns from the outcomes of each batch `before` or `after` it scores
            the batch.
        prm_reference: `frozen`, the PRM's own reference, or `behaviour`, the policy that sampled the batch.
        prm_loss: `ce` of the outcome with the reward as the logit, or `prefix` (arXiv 2604.13197).
        prm_margin: margin of `prefix`; by default that of `PrefixConfig`.
        prm_offset: `prompt_accuracy` adds the log-odds of the prompt's accuracy to the logit.
        prm_class_weight: `rare` gives correct and incorrect responses of a prompt the same total weight.
        prm_learning_rate: of the PRM's AdamW, constant. By default twice `learning_rate`, as in PRIME, whose policies
            have 5e-7 and PRMs 1e-6.
        prm_max_grad_norm: the PRM's gradient is clipped to it.
        prm_max_tokens: of the PRM in one forward pass, padding included; by default what suits the device.
    """

    scale_rewards: str = field(default="none", metadata={"help": "Scale of GRPOTrainer's advantages."})

    process_coef: float = field(default=0.2, metadata={"help": "Weight of the process advantages."})
    granularity: Literal["step", "token"] = field(default="step", metadata={"help": "Units of process rewards."})
    credit: Literal["sum", "min", "value"] = field(default="min", metadata={"help": "What rewards say of a unit."})
    gamma: float = field(default=1.0, metadata={"help": "Discount of process rewards per unit."})
    gae_lambda: float = field(default=1.0, metadata={"help": "Of advantage estimation with credit=value."})
    baseline: Baseline = field(default="leave_one_out", metadata={"help": "Baseline of outcomes and process rewards."})
    process_scale: Scale = field(default="none", metadata={"help": "What process advantages are divided by."})
    whiten: bool = field(default=False, metadata={"help": "Whiten the advantages over the tokens of the batch."})
    shuffle_process_rewards: bool = field(default=False, metadata={"help": "Permute process rewards, as a control."})
    accuracy_range: list[float] | None = field(default=None, metadata={"help": "Accuracy of prompts to train on."})
    outcome_reward: str | None = field(default=None, metadata={"help": "Reward function of the outcome."})
    prm_update: Literal["none", "before", "after"] = field(default="none", metadata={"help": "When the PRM learns."})
    prm_reference: Literal["frozen", "behaviour"] = field(default="frozen", metadata={"help": "The PRM's reference."})
    prm_loss: Literal["ce", "prefix"] = field(default="ce", metadata={"help": "Loss of the PRM."})
    prm_margin: float | None = field(default=None, metadata={"help": "Margin of the prefix loss."})
    prm_offset: Literal["none", "prompt_accuracy"] = field(default="none", metadata={"help": "Added to the logit."})
    prm_class_weight: Literal["none", "rare"] = field(default="none", metadata={"help": "Weights of outcomes."})
    prm_learning_rate: float | None = field(default=None, metadata={"help": "Learning rate of the PRM."})
    prm_max_grad_norm: float = field(default=10.0, metadata={"help": "Limit of the PRM's gradient norm."})
    prm_max_tokens: int | None = field(default=None, metadata={"help": "Tokens in one forward pass of the PRM."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "process_coef", at_least=0)
        check_range(self, "gamma", above=0, at_most=1)
        check_range(self, "gae_lambda", at_least=0, at_most=1)
        check_range(self, "prm_learning_rate", "prm_max_grad_norm", above=0)
        check_range(self, "prm_margin", at_least=0)
        check_range(self, "prm_max_tokens", at_least=1)
        self._check_range_of_accuracy()
        self._check_choices()
        self._refuse_unsound()
        self._refuse_ignored()

    @property
    def prm_loss_config(self) -> CEConfig | PrefixConfig:
        """The loss of the PRM's updates. Offset and weight are part of its inputs, as a group may be split."""
        if self.prm_loss == "ce":
            return CEConfig()
        return PrefixConfig() if self.prm_margin is None else PrefixConfig(margin=self.prm_margin)

    @property
    def prm_optimizer_learning_rate(self) -> float:
        """The learning rate of the PRM's optimiser."""
        return 2 * self.learning_rate if self.prm_learning_rate is None else self.prm_learning_rate

    def _check_range_of_accuracy(self) -> None:
        if self.accuracy_range is None:
            return
        bounds = list(self.accuracy_range)
        if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
            raise ImplicitPRMError(f"accuracy_range={bounds}: expected two numbers from 0 to 1, the lower one first")

    def _check_choices(self) -> None:
        hints = get_type_hints(type(self))
        for name in _CHOICES:
            convert(hints[name], getattr(self, name), name)

    def _refuse_unsound(self) -> None:
        """Refuse GRPO's options that need one advantage for each response, and combinations without a meaning."""
        if self.loss_type == "vespo":
            raise ImplicitPRMError(
                "loss_type=vespo weights a response by the sign of its advantage, which differs between tokens here; "
                "use dapo or grpo"
            )
        if self.off_policy_mask_threshold is not None:
            raise ImplicitPRMError(
                "off_policy_mask_threshold drops responses by the sign of their advantage, which differs between "
                "tokens here; leave it out"
            )
        if self.baseline == "leave_one_out":
            for name, value in (("scale_rewards", "none"), ("multi_objective_aggregation", "sum_then_normalize")):
                if getattr(self, name) != value:
                    raise ImplicitPRMError(
                        f"{name}={getattr(self, name)} belongs to GRPO's advantages; set baseline=group_mean, or "
                        f"{name}={value}"
                    )
        if self.load_best_model_at_end and self.prm_update != "none":
            raise ImplicitPRMError(
                "load_best_model_at_end would save the best policy with the last PRM, which prm_update="
                f"{self.prm_update} has trained further; leave it out, and take both from a checkpoint"
            )
        if self.credit != "sum" and self.gamma != 1:
            raise ImplicitPRMError(f"gamma={self.gamma} has no meaning with credit={self.credit}; leave it at 1")
        if self.credit == "value" and self.prm_update == "before":
            raise ImplicitPRMError(
                "prm_update=before would put the outcome of a response into the values that it is compared with; with "
                "credit=value use prm_update=after"
            )
        if self.credit == "value" and self.prm_loss == "prefix":
            raise ImplicitPRMError(
                "prm_loss=prefix trains the mean reward of the tokens so far, and credit=value reads their sum as "
                "log-odds; use prm_loss=ce"
            )
        if self.credit == "value" and self.shuffle_process_rewards:
            raise ImplicitPRMError(
                "shuffle_process_rewards would put rewards that follow a step into the value before it; use credit=sum "
                "or min. The control for credit=value is process_coef=0, which a PRM without information equals"
            )

    def _refuse_ignored(self) -> None:
        """Refuse options that would have no effect."""
        defaults = {f.name: f.default for f in fields(type(self))}

        def refuse(names: tuple[str, ...], why: str) -> None:
            for name in names:
                if getattr(self, name) != defaults[name]:
                    raise ImplicitPRMError(f"{name}={getattr(self, name)} has no effect with {why}; leave it out")

        if self.credit != "value":
            refuse(("gae_lambda",), f"credit={self.credit}")
        if self.process_coef == 0:
            refuse(("granularity", "credit", "gamma", "process_scale", "shuffle_process_rewards"), "process_coef=0")
        if self.prm_update == "none":
            refuse(_OF_UPDATES, "prm_update=none")
        if self.prm_loss == "ce":
            refuse(("prm_margin",), "prm_loss=ce")
