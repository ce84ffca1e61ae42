"""Time training steps of the official implementation, TRL's DPOTrainer, Liger's DPO loss and this library.

    python scripts/bench_training.py                                 # cross-entropy and DPO, one prompt, 4 responses
    python scripts/bench_training.py --responses 8 --rounds 5        # three quarters of an hour on two cores
    python scripts/bench_training.py --loss dpo --data rollouts.jsonl
    python scripts/bench_training.py --loss ce --gradient-checkpointing --second-run

A step is the loss of all responses (DPO: of all pairs) of the prompts, its gradient, clipping, and AdamW. The learning
rate is 0, which costs the same and lets every variant and round start from the same weights. Losses and gradients are
compared first; an error relative to the official ones above the tolerance stops the run. Then the variants take turns,
in a new order each round. Ctrl-C shows the results so far.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from benchlib import official, options, ours, rivals
from benchlib.cost import Cost, after_prompt, padded, shared, unpadded
from benchlib.official import Models
from benchlib.report import Report, Variant
from benchlib.run import compare, main
from benchlib.work import Work
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from implicit_prm import ImplicitPRMError
from implicit_prm.config import CEConfig, DPOConfig
from implicit_prm.costs.operations import Tokens
from implicit_prm.costs.shapes import Shape, shape_of

LOSSES = {"ce": CEConfig(), "dpo": DPOConfig()}
OURS = {
    "ours": ours.Ablation(),
    "ours, reference not cached": ours.Ablation(cached=False),
    "ours, prompt not shared": ours.Ablation(shared=False),
    "ours, neither cached nor shared": ours.Ablation(cached=False, shared=False),
}
RIVALS = ("TRL, reference precomputed", "TRL, reference online", "Liger's DPO loss")
CLIP_NORM = 1.0
# Relative errors of the loss and of the gradient (Euclidean norm) to the official ones. bfloat16 is not checked.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = {"float32": 1e-4, "float16": 1e-2}, {"float32": 1e-3, "float16": 1e-1}


@dataclass(frozen=True)
class Case:
    """One loss on one piece of work. Its methods make the variants, with their cost."""

    loss: str
    models: Models
    tokenizer: PreTrainedTokenizerBase
    work: Work
    finish: Callable[[], None]
    folder: str
    rival_pairs: int

    def official(self, checkpointing: bool = False) -> Variant:
        """The official implementation, restated."""
        models, rows, pairs = self.models, self.work.rows, self.work.pairs
        if self.loss == "ce":
            step = partial(official.ce_step, models, rows, self.work.labels)
            encoded, batch = rows, official.CE_BATCH
        else:
            step = partial(official.dpo_step, models, rows, pairs)
            encoded, batch = self._unrolled, 2 * official.DPO_BATCH
        forward = self._padded(encoded, batch)
        cost = forward.with_backward() + forward
        if checkpointing:
            cost += self._padded(encoded, batch, "none")
            step = within(official.checkpointing, models, step)
        return self._variant(step, cost, reference=True)

    def trl(self, precomputed: bool) -> Variant:
        """TRL's DPOTrainer."""
        size = rivals.divisor(len(self.work.pairs), self.rival_pairs)
        step = rivals.trl_dpo(
            self.models,
            self.tokenizer,
            self.work.rows,
            self.work.pairs,
            self.folder,
            precomputed=precomputed,
            batch_size=size,
        )
        project = "response" if self.models.policy.device.type == "cuda" else "all"  # the logits that TRL forms
        forward = self._padded(self._unrolled, 2 * size, project)
        # The head's chunks are recomputed in the backward pass.
        recomputed = forward.flops - self._padded(self._unrolled, 2 * size, "none").flops
        cost = forward.with_backward() + Cost(recomputed)
        return self._variant(step, cost if precomputed else cost + forward, reference=not precomputed)

    def liger(self) -> Variant:
        """Liger's fused DPO loss."""
        size = rivals.divisor(len(self.work.pairs), self.rival_pairs)
        step = rivals.liger_dpo(self.models, self.work.rows, self.work.pairs, size)
        forward = self._padded(self._unrolled, 2 * size)
        return self._variant(step, forward.with_backward() + forward, reference=True)

    def own(self, how: ours.Ablation, checkpointing: bool = False, compiled: bool = False) -> Variant:
        """This library's trainer."""
        models, work, loss = self.models, self.work, LOSSES[self.loss]
        forward = self._shared if how.shared else self._forward(unpadded(_lengths(work.rows)))
        cost = forward.with_backward() + Cost.head(self._shape, ours.recomputed_tokens(models, work, loss))
        for prompt, responses in ours.repeated(models, work, loss):
            rows = [(prompt, response) for response in responses]
            cost += self._forward(after_prompt(prompt, responses) if how.shared else unpadded(rows))
        step = ours.train(models, self.tokenizer, work, loss, self.folder, how)
        if checkpointing:
            cost += forward
            step = within(official.checkpointing, models, step)
        if compiled:
            step = within(ours.compiled, models, step)
        return self._variant(step, cost if how.cached else cost + forward, reference=not how.cached)

    def _variant(self, step: Callable[[], float], cost: Cost, reference: bool) -> Variant:
        useful = self._shared.with_backward().flops + (self._shared.flops if reference else 0)
        return Variant(step, cost, useful, self.finish)

    @cached_property
    def _shape(self) -> Shape:
        return shape_of(self.models.policy)

    @cached_property
    def _shared(self) -> Cost:
        """The least work of one forward pass."""
        return self._forward(sum((shared(*lengths) for lengths in self.work.lengths), Tokens()))

    @property
    def _unrolled(self) -> list[official.Row]:
        """The rows of all pairs, as trainers on pairs run them."""
        return [self.work.rows[index] for pair in self.work.pairs for index in pair]

    def _forward(self, tokens: Tokens) -> Cost:
        return Cost.forward(self._shape, tokens)

    def _padded(self, rows: list[official.Row], batch: int, project: str = "all") -> Cost:
        return self._forward(padded(_lengths(rows), batch, project))


def _lengths(rows: list[official.Row]) -> list[tuple[int, int]]:
    return [(len(prompt), len(response)) for prompt, response in rows]


def variants(case: Case, chosen: argparse.Namespace) -> dict[str, Callable[[], Variant]]:
    """Name to a function that makes the variant; the official one first."""
    makers = {"official": case.official}
    if case.loss == "dpo":
        makers |= zip(RIVALS, (partial(case.trl, True), partial(case.trl, False), case.liger), strict=True)
    else:
        makers |= dict.fromkeys(RIVALS, _pairs_only)
    makers |= {name: partial(case.own, how) for name, how in OURS.items()}
    if chosen.gradient_checkpointing:
        makers["official, gradient checkpointing"] = partial(case.official, True)
        makers["ours, gradient checkpointing"] = partial(case.own, OURS["ours"], checkpointing=True)
    if chosen.torch_compile:
        makers["ours, torch.compile"] = partial(case.own, OURS["ours"], compiled=True)
    return makers


def _pairs_only() -> Variant:
    raise rivals.UnavailableError("it has no cross-entropy on log-ratios, only losses on pairs or with a KL term")


def within(
    context: Callable[[PreTrainedModel], AbstractContextManager[None]], models: Models, step: Callable[[], float]
) -> Callable[[], float]:
    """The step in a context that changes the policy and restores it: all variants use the same model."""

    def run() -> float:
        with context(models.policy):
            return step()

    return run


def optimiser_step(models: Models) -> Callable[[], None]:
    """Gradient clipping, AdamW with a learning rate of 0, and resetting the gradient."""
    weights = list(models.policy.parameters())
    optimizer = torch.optim.AdamW(weights, lr=0.0, fused=True)

    def finish() -> None:
        torch.nn.utils.clip_grad_norm_(weights, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return finish


def agreement(models: Models, dtype: str) -> Callable[[str, Variant], dict[str, float]]:
    """A function that compares a variant's loss and gradient with those of the first variant it is called with."""
    weights, expected, losses = list(models.policy.parameters()), [], []

    def check(name: str, variant: Variant) -> dict[str, float]:
        losses.append(variant.work())
        gradient = [weight.grad for weight in weights]
        missing = sum(one is None for one in gradient)
        if missing:
            raise ImplicitPRMError(f"{name}: {missing} weights have no gradient; nothing was timed")
        if not expected:
            expected.extend(one.to("cpu", copy=True) for one in gradient)
            variant.finish()
            return {}
        loss = abs(losses[-1] - losses[0]) / abs(losses[0])
        error = _norm(one.cpu() - other for one, other in zip(gradient, expected, strict=True)) / _norm(expected)
        variant.finish()
        for what, value, limits in (("loss", loss, LOSS_TOLERANCE), ("gradient", error, GRADIENT_TOLERANCE)):
            if not value <= limits.get(dtype, float("inf")):
                raise ImplicitPRMError(
                    f"{name}: {what} error {value:.1e} relative to the official one; nothing was timed"
                )
        return {"loss error": loss, "gradient error": error}

    return check


def _norm(tensors: Iterable[Tensor]) -> float:
    return sum(tensor.double().square().sum().item() for tensor in tensors) ** 0.5


def second_run(made: Report, models: Models, work: Work) -> None:
    """Add the cost of the reference for a second loss, beta or epoch on the same data, with a full cache."""
    name = "reference in a second run"
    try:
        cache, filling = ours.fill_cache(models, work)
        reading = ours.seconds_to_read(cache, work)
    except rivals.UnavailableError as reason:
        made.left_out[name] = str(reason)
        return
    step = next((row.seconds for row in made.rows if row.name == "ours"), None)
    if step is not None:
        share = f"{reading / step:.2%} of a step ({reading * 1e3:.1f} ms of {step:.2f} s)"
        made.extra[name] = f"{share}; filling the cache took {filling:.2f} s"


def cases(chosen: argparse.Namespace, console: Console) -> Iterator[Report]:
    """A report per loss.

    Raises:
        ImplicitPRMError: DPO on prompts without a pair.
    """
    models, tokenizer = options.open_models(chosen)
    finish = optimiser_step(models)
    with tempfile.TemporaryDirectory() as folder:
        for loss in chosen.loss:
            work = options.read_work(chosen, tokenizer, chosen.correct, mixed=loss == "dpo")
            if loss == "dpo" and not work.pairs:
                raise ImplicitPRMError("no prompt has both a correct and an incorrect response; DPO needs pairs")
            what = f"{loss.upper()} step on {chosen.responses} responses per prompt"
            what += f" ({len(work.pairs)} pairs)" if loss == "dpo" else ""
            case = Case(loss, models, tokenizer, work, finish, folder, chosen.rival_pairs)
            check = agreement(models, chosen.dtype)
            made = compare(options.title(chosen, what), variants(case, chosen), check, work, chosen, console)
            if chosen.second_run:
                second_run(made, models, work)
            yield made


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__, responses=4, rounds=3)
    made.add_argument("--loss", nargs="+", choices=LOSSES, default=list(LOSSES), help="(default: both)")
    made.add_argument(
        "--correct", type=options.positive, help="generated responses labelled correct (default: a quarter)"
    )
    made.add_argument(
        "--rival-pairs",
        type=options.positive,
        default=2,
        help="largest number of pairs in a micro-batch of TRL and Liger (default: 2)",
    )
    made.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="add gradient checkpointing to the official implementation and to ours",
    )
    made.add_argument("--torch-compile", action="store_true", help="add ours with torch.compile")
    made.add_argument("--second-run", action="store_true", help="add the cost of reading a full reference cache")
    return made


if __name__ == "__main__":
    main(cases, options.parse(parser()))
