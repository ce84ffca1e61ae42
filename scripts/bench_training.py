"""Training steps in the official way, with TRL's DPOTrainer, with Liger's DPO loss, and with this library.

    python scripts/bench_training.py                                 # cross-entropy and DPO, one prompt, 4 responses
    python scripts/bench_training.py --responses 8 --rounds 5        # three quarters of an hour on two cores
    python scripts/bench_training.py --loss dpo --data rollouts.jsonl
    python scripts/bench_training.py --loss ce --gradient-checkpointing --second-run

A step is the loss of all responses (DPO: of all pairs) of the prompts, its gradient, clipping, and AdamW. The learning
rate is 0: that costs the same, and every variant and round starts from the same weights. Loss and gradient are compared
first (errors are relative to the official way's), and one over the tolerance stops the run; then the variants take
turns, in a new order each round. Ctrl-C shows what there is so far.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import torch
from benchlib import official, options, ours, rivals
from benchlib.cost import Cost, Decoder
from benchlib.official import Models
from benchlib.report import Report, Variant
from benchlib.run import compare, main
from benchlib.work import Work
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from implicit_prm import ImplicitPRMError
from implicit_prm.config import CEConfig, DPOConfig

LOSSES = {"ce": CEConfig(), "dpo": DPOConfig()}
OURS = {
    "ours": ours.Ablation(),
    "ours, reference not cached": ours.Ablation(cached=False),
    "ours, prompt not shared": ours.Ablation(shared=False),
    "ours, neither cached nor shared": ours.Ablation(cached=False, shared=False),
}
RIVALS = ("TRL, reference precomputed", "TRL, reference online", "Liger's DPO loss")
CLIP_NORM = 1.0
# Of the loss, and of the gradient's Euclidean distance to the official way's: relative. bfloat16 is only reported.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = {"float32": 1e-4, "float16": 1e-2}, {"float32": 1e-3, "float16": 1e-1}


def variants(
    loss: str,
    models: Models,
    tokenizer: PreTrainedTokenizerBase,
    work: Work,
    finish: Callable[[], None],
    folder: str,
    chosen: argparse.Namespace,
) -> dict[str, Callable[[], Variant]]:
    """Name to a function that makes the variant ready; the official way first."""
    decoder = Decoder.of(models.policy)
    shared = sum((decoder.shared(*lengths) for lengths in work.lengths), Cost())
    rows, pairs = work.rows, work.pairs
    unrolled = [rows[place] for pair in pairs for place in pair]
    compact = "response" if models.policy.device.type == "cuda" else "all"  # the positions that TRL projects

    def padded(rows: list[official.Row], batch: int, project: str = "all") -> Cost:
        return decoder.padded([(len(prompt), len(response)) for prompt, response in rows], batch, project)

    def variant(step: Callable[[], float], cost: Cost, reference: bool) -> Variant:
        useful = shared.with_backward().flops + (shared.flops if reference else 0)
        return Variant(step, cost, useful, finish)

    def official_step(checkpointing: bool) -> Variant:
        if loss == "ce":
            step = partial(official.ce_step, models, rows, work.labels)
            batch, encoded = official.CE_BATCH, rows
        else:
            step = partial(official.dpo_step, models, rows, pairs)
            batch, encoded = 2 * official.DPO_BATCH, unrolled
        cost = padded(encoded, batch).with_backward() + padded(encoded, batch)
        if checkpointing:
            cost += padded(encoded, batch, "none")
        step = _within(official.checkpointing, models, step) if checkpointing else step
        return variant(step, cost, reference=True)

    def trl_step(precomputed: bool) -> Variant:
        size = rivals.divisor(len(pairs), chosen.rival_pairs)
        step = rivals.trl_dpo(models, tokenizer, rows, pairs, folder, precomputed=precomputed, batch_size=size)
        # The head once more: its chunks are computed again in the backward pass.
        again = padded(unrolled, 2 * size, compact).flops - padded(unrolled, 2 * size, "none").flops
        cost = padded(unrolled, 2 * size, compact).with_backward() + Cost(again)
        return variant(step, cost if precomputed else cost + padded(unrolled, 2 * size, compact), not precomputed)

    def liger_step() -> Variant:
        size = rivals.divisor(len(pairs), chosen.rival_pairs)
        forward = padded(unrolled, 2 * size)
        step = rivals.liger_dpo(models, rows, pairs, size)
        return variant(step, forward.with_backward() + forward, reference=True)

    def own(how: ours.Ablation, checkpointing: bool = False, compiled: bool = False) -> Variant:
        forward = shared if how.shared else decoder.unpadded([(len(p), len(r)) for p, r in rows])
        cost = forward.with_backward() + decoder.heads(ours.recomputed_tokens(models, work, LOSSES[loss]))
        for prompt, responses in ours.repeated(models, work, LOSSES[loss]):
            alone = [(prompt, response) for response in responses]
            cost += decoder.behind(prompt, responses) if how.shared else decoder.unpadded(alone)
        if checkpointing:
            cost += forward
        step = ours.train(models, tokenizer, work, LOSSES[loss], folder, how)
        step = _within(official.checkpointing, models, step) if checkpointing else step
        step = _within(ours.compiled, models, step) if compiled else step
        return variant(step, cost if how.cached else cost + forward, not how.cached)

    found = {"official": partial(official_step, False)}
    if loss == "dpo":
        found |= zip(RIVALS, (partial(trl_step, True), partial(trl_step, False), liger_step), strict=True)
    else:
        found |= dict.fromkeys(RIVALS, _pairs_only)
    found |= {name: partial(own, how) for name, how in OURS.items()}
    if chosen.gradient_checkpointing:
        found["official, gradient checkpointing"] = partial(official_step, True)
        found["ours, gradient checkpointing"] = partial(own, OURS["ours"], checkpointing=True)
    if chosen.torch_compile:
        found["ours, torch.compile"] = partial(own, OURS["ours"], compiled=True)
    return found


def _pairs_only() -> Variant:
    raise rivals.UnavailableError("it trains on pairs, or with a KL term, and has no cross-entropy on log-ratios")


def _within(
    context: Callable[[PreTrainedModel], AbstractContextManager[None]], models: Models, step: Callable[[], float]
) -> Callable[[], float]:
    """The step with the policy in another state, which ends with it: variants take turns on the same model."""

    def run() -> float:
        with context(models.policy):
            return step()

    return run


def optimiser_step(models: Models) -> Callable[[], None]:
    """Clip, AdamW with a learning rate of 0, and drop the gradient."""
    weights = list(models.policy.parameters())
    optimizer = torch.optim.AdamW(weights, lr=0.0, fused=True)

    def finish() -> None:
        torch.nn.utils.clip_grad_norm_(weights, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return finish


def agreement(models: Models, dtype: str) -> Callable[[str, Variant], dict[str, float]]:
    """Compares loss and gradient with those of the first variant that it sees."""
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
                raise ImplicitPRMError(f"{name}: its {what} is {value:.1e} off the official way's; nothing was timed")
        return {"loss error": loss, "gradient error": error}

    return check


def _norm(tensors: Iterable[Tensor]) -> float:
    return sum(tensor.double().square().sum().item() for tensor in tensors) ** 0.5


def second_run(made: Report, models: Models, work: Work) -> None:
    """Adds what the reference costs a second loss, beta or epoch on the same data, when the cache is full."""
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
    """One per loss.

    Raises:
        ImplicitPRMError: DPO on prompts that have no pair.
    """
    models, tokenizer = options.open_models(chosen)
    finish = optimiser_step(models)
    with tempfile.TemporaryDirectory() as folder:
        for loss in chosen.loss:
            work = options.read_work(chosen, tokenizer, chosen.correct, mixed=loss == "dpo")
            if loss == "dpo" and not work.pairs:
                raise ImplicitPRMError("no prompt has both a correct and an incorrect response; DPO needs pairs")
            what = f"{loss.upper()} step on {chosen.responses} responses a prompt"
            what += f" ({len(work.pairs)} pairs)" if loss == "dpo" else ""
            found = variants(loss, models, tokenizer, work, finish, folder, chosen)
            check = agreement(models, chosen.dtype)
            made = compare(options.title(chosen, what), found, check, work, chosen, console)
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
        help="pairs in a micro-batch of TRL and Liger, at most (default: 2)",
    )
    made.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="add the official way and ours with gradient checkpointing",
    )
    made.add_argument("--torch-compile", action="store_true", help="add ours with torch.compile")
    made.add_argument("--second-run", action="store_true", help="add what a filled reference cache costs to read")
    return made


if __name__ == "__main__":
    main(cases, options.parse(parser()))
