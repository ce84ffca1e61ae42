"""This library as users call it. `Ablation` switches parts of it off."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from benchlib.official import Models
from benchlib.rivals import UnavailableError
from benchlib.work import TEXT, Work
from implicit_prm import ImplicitPRM
from implicit_prm.config import LossConfig
from implicit_prm.models import shared_prompt
from implicit_prm.models.checkpoint import CheckpointMetadata
from implicit_prm.models.forward import compile_blocks, token_budget
from implicit_prm.models.reference import fill
from implicit_prm.models.reference_cache import ReferenceCache
from implicit_prm.models.shared_prompt import SharedPrompt, pieces
from implicit_prm.rewards.chunked_logprobs import CHUNK_BYTES
from implicit_prm.training import GroupDataset, LogRatioTrainer


@dataclass(frozen=True)
class Ablation:
    """The parts that are switched on.

    Args:
        cached: the reference's log-probabilities are in the cache already.
        shared: the prompt is encoded once for all of its responses.
        sorted: batches are formed by length.
    """

    cached: bool = True
    shared: bool = True
    sorted: bool = True


def score(models: Models, tokenizer: PreTrainedTokenizerBase, work: Work, how: Ablation) -> Callable[[], list[float]]:
    """Scoring through `ImplicitPRM.score`: the log-ratio of each response in nats, in dataset order."""
    if not how.sorted:
        raise UnavailableError("scoring always sorts by length")
    prm = ImplicitPRM(models.policy, tokenizer, models.reference, metadata(models))
    prm.reference_cache = fill_cache(models, work)[0] if how.cached else None

    def run() -> list[float]:
        with ablated(how):
            scored = [one for group in work.groups for one in prm.score(group.prompt, group.completions)]
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
    """A step of `LogRatioTrainer` over all groups. Returns the loss; the gradient is left in the policy."""
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=len(work.encoded),
        use_cpu=models.policy.device.type == "cpu",
        report_to="none",
        disable_tqdm=True,
    )
    dataset = GroupDataset(work.encoded)
    dataset.cache = fill_cache(models, work)[0] if how.cached else None
    trainer = LogRatioTrainer(
        models.policy, arguments, loss, metadata(models), train_dataset=dataset, processing_class=tokenizer
    )

    def run() -> float:
        with ablated(how):
            if not how.cached:
                dataset.cache = fill_cache(models, work)[0]
            micro = (trainer.data_collator([dataset[place]]) for place in range(len(dataset)))
            batches, units = trainer.get_batch_samples(micro, len(dataset), trainer.args.device)
            return sum(trainer.training_step(trainer.model, batch, units).item() for batch in batches)

    return run


@contextlib.contextmanager
def compiled(model: PreTrainedModel) -> Iterator[None]:
    """Compiled blocks within the block of code; later steps reuse the compiled code."""
    compile_blocks(model)
    try:
        yield
    finally:
        for module in model.modules():
            module._compiled_call_impl = None


def recomputed_tokens(models: Models, work: Work, loss: LossConfig) -> int:
    """Response tokens whose logits the backward pass recomputes: all but the first chunk of each piece."""
    chunk = CHUNK_BYTES // (4 * models.policy.get_output_embeddings().weight.shape[0])
    return sum(max(0, sum(piece) - chunk) for cut in _cut(models, work, loss) for piece in cut)


def repeated(models: Models, work: Work, loss: LossConfig) -> list[tuple[int, list[int]]]:
    """Prompt and response tokens of the pieces that run forward twice: all but the first of each group, and none with a
    loss that is a sum over responses."""
    if loss.by_response:
        return []
    cut = zip(work.lengths, _cut(models, work, loss), strict=True)
    return [(prompt, [length for piece in rest for length in piece]) for (prompt, _), (_, *rest) in cut]


def _cut(models: Models, work: Work, loss: LossConfig) -> list[list[list[int]]]:
    """The response lengths of every group, in the pieces that training runs."""
    budget = token_budget(models.policy.device, loss.by_response)
    cut = [(lengths, pieces(lengths, budget, SharedPrompt.row_overhead)) for _, lengths in work.lengths]
    return [[[lengths[place] for place in piece] for piece in places] for lengths, places in cut]


def fill_cache(models: Models, work: Work) -> tuple[ReferenceCache, float]:
    """A reference cache filled with every response of `work`, and the seconds it took."""
    cache = ReferenceCache({"weights": "in memory"}, tempfile.mkdtemp(prefix="ipr-bench-"))
    start = time.perf_counter()
    fill(cache, models.reference, GroupDataset(work.encoded).requests(), token_budget(models.reference.device))
    return cache, time.perf_counter() - start


def seconds_to_read(cache: ReferenceCache, work: Work) -> float:
    """Seconds to open a full cache and read the log-probabilities of every response."""
    start = time.perf_counter()
    dataset = GroupDataset(work.encoded)
    dataset.cache = ReferenceCache({"weights": "in memory"}, cache.folder.parent)
    for place in range(len(dataset)):
        dataset[place]
    return time.perf_counter() - start


@contextlib.contextmanager
def ablated(how: Ablation) -> Iterator[None]:
    """The library without what `how` switches off, within the block."""
    if how.shared:
        yield
        return
    # An ablation, not an option: the library shares the prompt whenever the model can.
    with mock.patch.object(shared_prompt, "_shares", return_value=False):
        yield


def metadata(models: Models) -> CheckpointMetadata:
    """Metadata for an `ImplicitPRM` of the models."""
    return CheckpointMetadata(models.beta, reference="in memory", text=TEXT)
