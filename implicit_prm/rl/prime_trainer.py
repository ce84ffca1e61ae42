"""PrimeTrainer: TRL's GRPOTrainer with an advantage for every token, from outcomes and process rewards."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer

from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.rl import advantages, monitor
from implicit_prm.rl.dense_rewards import DenseRewards, StepChecker
from implicit_prm.rl.epoch_order import EpochOrder
from implicit_prm.rl.prime_config import PrimeConfig
from implicit_prm.rl.prm_update import Targets
from implicit_prm.rl.rollouts import Rollout, RolloutBatch
from implicit_prm.rl.token_rewards import TokenRewards
from implicit_prm.training.arguments import without_token
from implicit_prm.training.finished_run import FinishedRunMixin
from implicit_prm.types import ImplicitPRMError, Scorer

PRM_FOLDER = "prm"


class PrimeTrainer(FinishedRunMixin, GRPOTrainer):
    """Reinforcement learning with process rewards (PRIME, arXiv 2502.01456; IPVRM, arXiv 2604.13197).

    Everything is TRL's GRPOTrainer, but for the advantages of training batches: each token gets the outcome advantage
    of its response plus `process_coef` times the return of the process rewards from there on, or, with `credit=value`,
    what the PRM as the critic changes in it. The PRM reads the same token ids as the policy, at temperature 1, and the
    last token has a reward. It stays frozen or learns from the outcomes of each batch; then it is saved in the folder
    `prm` of every checkpoint, with its optimiser, and in that of the final model.

    Works in one process or several (DDP). Every process holds the PRM.

    Example:
        >>> trainer = PrimeTrainer(
        ...     model="Qwen/Qwen2.5-0.5B-Instruct",
        ...     reward_funcs=accuracy,
        ...     args=PrimeConfig("outputs/prime", process_coef=0.2, credit="min"),
        ...     train_dataset=dataset,
        ...     prm=ImplicitPRM.from_pretrained("outputs/ce"),
        ... )
        >>> trainer.train()

    Args:
        model: the policy, as for GRPOTrainer.
        reward_funcs: rewards of whole responses, as for GRPOTrainer: the outcome.
        args: the arguments.
        prm: an implicit PRM with the policy's tokenizer, or any scorer whose `StepScores` have spans; None with
            `process_coef=0`, which trains on outcomes alone.
        step_checker: says of a prompt and the text of a response which steps are right; only for the log, where steps
            can be checked.
        options: other arguments of GRPOTrainer, but for tools and environments.

    Raises:
        ImplicitPRMError: options that cannot work together, or a distributed backend other than DDP.
    """

    _tag_names = ["trl", "prime"]  # noqa: RUF012
    _name = "PRIME"
    args: PrimeConfig

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: PrimeConfig | None = None,
        *,
        prm: ImplicitPRM | Scorer | None = None,
        step_checker: StepChecker | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(args, PrimeConfig):
            raise ImplicitPRMError(f"args: expected a PrimeConfig, got {type(args).__name__}")
        for name in ("tools", "environment_factory"):
            if options.get(name):
                raise ImplicitPRMError(f"{name}: a PRM scores the policy's own tokens only; leave it out")
        if prm is None:
            _refuse_without_prm(args, step_checker)
        super().__init__(model, reward_funcs, args, **options)
        backend = self.accelerator.distributed_type
        if backend not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise ImplicitPRMError(f"{backend.value}: expected one process or DDP, whose processes hold whole models")
        self.dense: DenseRewards | None = None
        if prm is not None:
            policy = partial(self.accelerator.unwrap_model, self.model)
            self.dense = DenseRewards(prm, args, self.accelerator, self._tokenizer, policy, step_checker)
        self._outcome_column = self._outcome_index()
        self._rewards = torch.empty(0)
        self._returns: list[float] = []
        self._accuracies: list[float] = []

    def _outcome_index(self) -> int:
        """Column of the reward that says which responses are correct."""
        names = self.reward_func_names
        if self.args.outcome_reward is None:
            if len(names) > 1 and (self.dense is not None or self.args.accuracy_range is not None):
                raise ImplicitPRMError(f"outcome_reward: name the one that grades responses, of {', '.join(names)}")
            return 0
        if self.args.outcome_reward not in names:
            raise ImplicitPRMError(f"outcome_reward={self.args.outcome_reward}: choose one of {', '.join(names)}")
        return names.index(self.args.outcome_reward)

    def _get_train_sampler(self, dataset=None):
        return EpochOrder(super()._get_train_sampler(dataset), self.args.seed)

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """As GRPOTrainer's; training goes on with the random numbers that it would have drawn without it."""
        device = self.accelerator.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            return super().evaluate(*args, **options)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As GRPOTrainer's; a finished run that is resumed has no training loss."""
        if "train_loss" in logs and self.state.global_step == self._initial_global_step:
            logs.pop("train_loss")
        else:
            super().log(logs, start_time)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """Keep the rewards of all processes, [N, F]."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._rewards = rewards.detach().cpu()
        return rewards

    def _generate_and_score_completions(self, inputs):
        """Replace GRPO's advantages of responses by advantages of tokens, [B, T]; not in evaluation."""
        output = super()._generate_and_score_completions(inputs)
        policy: Any = self.model
        if policy.training:
            if "tool_mask" in output:
                raise ImplicitPRMError("rollout_func: env_mask is not supported, a PRM scores the policy's own tokens")
            output["advantages"] = self._token_advantages(inputs, output)
        return output

    def _token_advantages(self, inputs: list[dict[str, Any]], output: dict[str, Any]) -> Tensor:
        """[B, T] advantages of this process's rollouts, from the rewards of all processes."""
        batch = RolloutBatch(gather_object(_local_rollouts(inputs, output)))
        groups, outcomes = batch.group_of_row, self._rewards[:, self._outcome_column]
        used = torch.ones_like(groups, dtype=torch.bool)
        if self.args.accuracy_range is not None:
            used = advantages.in_accuracy_range(outcomes, groups, *self.args.accuracy_range)
            self._observe("prm/prompts_used", used.float().mean().item())
        mask = batch.completion_mask & used[:, None]
        outcome = self._outcome_advantages(groups, output["advantages"])
        process = torch.zeros(mask.shape)
        if self.dense is not None:
            targets = Targets.of(outcomes, groups, mask.any(-1), self.args)
            scored, metrics = self.dense(batch, targets)
            for name, value in metrics.items():
                self._observe(f"prm/{name}", value)
            process = self._process_advantages(batch, scored, mask, outcomes)
        combined = advantages.combined(process, outcome, mask, self.args.process_coef, self.args.whiten)
        if self.dense is not None:
            self._observe_batch(batch, scored, outcomes, combined, mask)
        first = self.accelerator.process_index * len(inputs)
        local = combined[first : first + len(inputs)]
        width = output["completion_ids"].shape[1]
        padding = (0, max(width - local.shape[1], 0))
        return torch.nn.functional.pad(local, padding)[:, :width].to(output["advantages"].device)

    def _outcome_advantages(self, groups: Tensor, grpo: Tensor) -> Tensor:
        """[N] of all processes: GRPOTrainer's own, or against the mean of the prompt's other responses."""
        if self.args.baseline == "group_mean":
            return self.accelerator.gather(grpo).cpu()
        total = (self._rewards * self.reward_weights.cpu()).nansum(1)
        total[self._rewards.isnan().all(1)] = torch.nan
        return advantages.outcome_advantages(total, groups)

    def _process_advantages(
        self, batch: RolloutBatch, scored: list[TokenRewards], mask: Tensor, outcomes: Tensor
    ) -> Tensor:
        args, groups = self.args, batch.group_of_row
        rewards = batch.padded([one.rewards for one in scored], torch.float32)
        steps = _steps(batch, scored) if args.granularity == "step" else None
        if args.credit == "value":
            process = advantages.value_advantages(
                rewards, mask, groups, outcomes, steps, args.baseline, args.gae_lambda
            )
        else:
            shuffle = None
            if args.shuffle_process_rewards:
                shuffle = torch.Generator().manual_seed(args.seed + self.state.global_step)
            process = advantages.process_advantages(
                rewards, mask, groups, steps, args.baseline, args.credit, args.gamma, shuffle
            )
        return advantages.scaled(process, rewards, mask, groups, args.process_scale)

    def _observe(self, name: str, value: float) -> None:
        """Add to the mean that the next log shows."""
        self._metrics["train"][name].append(value)

    def _observe_batch(
        self, batch: RolloutBatch, scored: list[TokenRewards], outcomes: Tensor, combined: Tensor, trained: Tensor
    ) -> None:
        """Log what shows reward hacking; values are those of all processes.

        Rewards are watched on all responses, advantages only on the tokens that are `trained` on.
        """
        mask = batch.completion_mask
        rewards = batch.padded([one.rewards for one in scored], torch.float32)
        breaks = {token for one in batch.rollouts for token in one.ids}
        breaks = {token for token in breaks if "\n" in str(self._tokenizer.decode([token]))}
        newline = batch.padded([[token in breaks for token in one.ids] for one in batch.rollouts], torch.bool)
        found = monitor.reward_metrics(rewards, mask, newline, outcomes, batch.group_of_row)
        for name, value in found.items():
            self._observe(f"prm/{name}", value)
        labels = [one.step_labels for one in scored]
        if any(labels):
            steps = _steps(batch, scored)
            for prefix, values, seen in (("prm", rewards, mask), ("advantage", combined, trained)):
                shown = monitor.step_metrics(values, seen, steps, labels, outcomes, batch.group_of_row)
                for name, value in shown.items():
                    self._observe(f"{prefix}/{name}", value)
        self._warn_of_hacking(found.get("return"), outcomes.nanmean().item())

    def _warn_of_hacking(self, value: float | None, accuracy: float) -> None:
        if value is None:
            return
        self._returns.append(value)
        self._accuracies.append(accuracy)
        if monitor.parts_from_accuracy(self._returns, self._accuracies):
            warnings.warn(
                f"step {self.state.global_step}: the PRM's return rises while accuracy falls, as when a policy learns "
                "to please the PRM. Use credit='value' with gae_lambda=1, by which it gains nothing, or lower "
                "process_coef with credit='min'",
                stacklevel=2,
            )
            self._returns.clear()
            self._accuracies.clear()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        with without_token(self):
            super()._save(output_dir, state_dict)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy, and in the folder `prm` a PRM that was updated."""
        if not _internal_call:  # first, as saving the policy also uploads the folder with push_to_hub
            self._save_prm(Path(str(output_dir or self.args.output_dir)), with_optimizer=False)
        super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model, trial):
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self._save_prm(folder, with_optimizer=True)  # before the trainer's state, whose file marks a whole checkpoint
        super()._save_checkpoint(model, trial)

    def _save_prm(self, folder: Path, with_optimizer: bool) -> None:
        if self.dense is not None and self.dense.updater is not None and self.args.should_save:
            self.dense.updater.save(folder / PRM_FOLDER, with_optimizer)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.dense is not None and self.dense.updater is not None:
            self.dense.updater.load(Path(checkpoint) / PRM_FOLDER)


def _refuse_without_prm(args: PrimeConfig, step_checker: StepChecker | None) -> None:
    if args.process_coef > 0:
        raise ImplicitPRMError(f"process_coef={args.process_coef} needs a prm; process_coef=0 trains on outcomes alone")
    for name, default in (("prm_update", "none"), ("prm_reference", "frozen"), ("prm_max_tokens", None)):
        if getattr(args, name) != default:
            raise ImplicitPRMError(f"{name}={getattr(args, name)} needs a prm")
    if step_checker is not None:
        raise ImplicitPRMError("step_checker needs a prm, whose steps it checks")


def _local_rollouts(inputs: list[dict[str, Any]], output: dict[str, Any]) -> list[Rollout]:
    """The rollouts of this process, without padding."""
    rows = zip(
        inputs,
        *(output[name].cpu() for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")),
        strict=True,
    )
    return [
        Rollout(row["prompt"], prompt[prompt_mask.bool()].tolist(), ids[mask.bool()].tolist())
        for row, prompt, prompt_mask, ids, mask in rows
    ]


def _steps(batch: RolloutBatch, scored: list[TokenRewards]) -> Tensor:
    """[N, T] the step of each token."""
    return batch.padded([one.step_of_token for one in scored], torch.long)
