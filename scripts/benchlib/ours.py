"""The library, as its users call it: the one place to change when its interface does.

`Ablation` says what is switched off. What the library does not have (yet) raises `UnavailableError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainingArguments

from benchlib.official import Models
from benchlib.rivals import UnavailableError
from benchlib.work import TEXT, Work
from implicit_prm import ImplicitPRM, ImplicitPRMTrainer
from implicit_prm.config import LossConfig
from implicit_prm.model import Settings
from implicit_prm.training import GroupDataset

NO_CACHE = "the library has no reference cache yet"


@dataclass(frozen=True)
class Ablation:
    """cached: the reference's log-probabilities are in the cache already; shared: the prompt is encoded once for all
    of its responses; sorted: batches are formed by length."""

    cached: bool = True
    shared: bool = True
    sorted: bool = True


def score(models: Models, tokenizer: PreTrainedTokenizerBase, work: Work, how: Ablation) -> Callable[[], list[float]]:
    """Scoring through `ImplicitPRM.score`: the log-ratio of each response in nats, in dataset order."""
    _check(how)
    prm = ImplicitPRM(models.policy, tokenizer, models.reference, _settings(models))

    def run() -> list[float]:
        scored = [one for group in work.groups for one in prm.score(group.prompt, group.completions, batch_size=4)]
        return [one.outcome_reward / models.beta for one in scored]

    return run


def train(
    models: Models,
    tokenizer: PreTrainedTokenizerBase,
    work: Work,
    loss: LossConfig,
    folder: str,
    how: Ablation,
) -> Callable[[], float]:
    """An optimiser step of `ImplicitPRMTrainer` over all groups: the loss, with its gradient left in the policy."""
    _check(how)
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=len(work.encoded),
        use_cpu=models.policy.device.type == "cpu",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = ImplicitPRMTrainer(
        models.policy,
        arguments,
        loss,
        _settings(models),
        models.reference,
        train_dataset=GroupDataset(work.encoded),
        processing_class=tokenizer,
    )
    items = [trainer.train_dataset[place] for place in range(len(work.encoded))]

    def run() -> float:
        batches, units = trainer.get_batch_samples(
            (trainer.data_collator([item]) for item in items), len(items), trainer.args.device
        )
        return sum(trainer.training_step(trainer.model, batch, units).item() for batch in batches)

    return run


def fill_cache(models: Models, work: Work) -> tuple[Any, float]:
    """A reference cache with every response of `work` in it, and the seconds that filling it took."""
    raise UnavailableError(NO_CACHE)


def seconds_to_read(cache: Any, work: Work) -> float:
    """What the reference costs when the cache is full: reading the log-probabilities of every response."""
    raise UnavailableError(NO_CACHE)


def _settings(models: Models) -> Settings:
    return Settings(models.beta, reference="in memory", text=TEXT)


def _check(how: Ablation) -> None:
    if how.cached:
        raise UnavailableError(NO_CACHE)
    if how.shared:
        raise UnavailableError("the library does not share prompts yet")
    if not how.sorted:
        raise UnavailableError("scoring always sorts by length")
