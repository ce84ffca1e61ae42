"""Time the output head alone, from hidden states to log-probabilities and gradients: this library and others.

    python scripts/bench_head.py                                             # trained and frozen head, on the CPU
    python scripts/bench_head.py --vocabulary 131072 --width 2048 --tokens 4096 --device cuda --dtype bfloat16

Values and gradients are first compared with those of whole logits (largest error relative to the largest value); then
the variants take turns. PyTorch's linear_cross_entropy is given the chunk size that this library uses.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from benchlib import options, rivals
from benchlib.cost import Cost
from benchlib.report import Report, Variant
from benchlib.run import compare, main
from rich.console import Console
from torch import Tensor

from implicit_prm import ImplicitPRMError
from implicit_prm.rewards.chunked_logprobs import CHUNK_BYTES, naive_token_logprobs, token_logprobs

LogProbs = Callable[[Tensor, Tensor, Tensor], Tensor]  # hidden [T, D], weight [V, D], targets [T] -> [T] nats
TOLERANCE = {"float32": 1e-4, "float16": 1e-2}


@dataclass(frozen=True)
class Head:
    """Hidden states at an output head, their targets, and the loss's gradient for each log-probability."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    gradients: Tensor

    @classmethod
    def draw(cls, chosen: argparse.Namespace, frozen: bool) -> Head:
        generator = torch.Generator().manual_seed(chosen.seed)
        dtype = options.DTYPES[chosen.dtype]

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(chosen.device, dtype)

        hidden = normal(chosen.tokens, chosen.width).requires_grad_()
        weight = (normal(chosen.vocabulary, chosen.width) / chosen.width**0.5).requires_grad_(not frozen)
        targets = torch.randint(chosen.vocabulary, (chosen.tokens,), generator=generator).to(chosen.device)
        return cls(hidden, weight, targets, normal(chosen.tokens).float())

    @property
    def response_tokens(self) -> int:
        return len(self.targets)

    def __str__(self) -> str:
        (tokens, width), vocabulary = self.hidden.shape, len(self.weight)
        kind = "trained" if self.weight.requires_grad else "frozen"
        return f"{tokens} tokens of width {width}, a {kind} head of {vocabulary} tokens"

    def run(self, logprobs: LogProbs) -> list[Tensor]:
        """Values and gradients."""
        leaves = [leaf for leaf in (self.hidden, self.weight) if leaf.requires_grad]
        values = logprobs(self.hidden, self.weight, self.targets).float()
        return [values.detach(), *torch.autograd.grad((values * self.gradients).sum(), leaves)]


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """PyTorch's own (2.13 and newer), with our chunk size."""
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise rivals.UnavailableError(f"torch {torch.__version__} has no chunked linear_cross_entropy")
    chunks = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=max(1, CHUNK_BYTES // (4 * len(weight))))
    return -F.linear_cross_entropy(hidden, weight, targets, reduction="none", options=chunks)


def liger(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Liger's fused linear cross-entropy, a Triton kernel."""
    return -rivals.liger_cross_entropy(hidden.device)(weight, hidden, targets)


HEADS: dict[str, LogProbs] = {
    "whole logits": naive_token_logprobs,
    "ours": token_logprobs,
    "torch's linear_cross_entropy": linear_cross_entropy,
    "Liger's cross-entropy": liger,
}


def agreement(dtype: str) -> Callable[[str, Variant], dict[str, float]]:
    """A function that compares a variant's values and gradients with those of the first variant it is called with."""
    expected: list[Tensor] = []

    def check(name: str, variant: Variant) -> dict[str, float]:
        found = variant.work()
        if not expected:
            expected.extend(found)
            return {}
        errors = [
            ((one - other).abs().max() / other.abs().max()).item() for one, other in zip(found, expected, strict=True)
        ]
        if not max(errors) <= TOLERANCE.get(dtype, float("inf")):
            raise ImplicitPRMError(f"{name}: error {max(errors):.1e} relative to whole logits; nothing was timed")
        return {"value error": errors[0], "gradient error": max(errors[1:])}

    return check


def cases(chosen: argparse.Namespace, console: Console) -> Iterator[Report]:
    """A report on a trained head, and one on a frozen head."""
    for frozen in (False, True):
        head = Head.draw(chosen, frozen)
        product = 2 * head.weight.numel() * len(head.targets)
        useful = product * (2 if frozen else 3)  # the forward pass, and a gradient for each trained factor

        def variant(logprobs: LogProbs, head: Head = head, useful: float = useful) -> Variant:
            head.run(logprobs)  # raises UnavailableError
            return Variant(partial(head.run, logprobs), Cost(useful, len(head.targets)), useful)

        makers = {name: partial(variant, logprobs) for name, logprobs in HEADS.items()}
        title = f"Output head, {head}: {chosen.dtype} on {chosen.device}"
        yield compare(title, makers, agreement(chosen.dtype), head, chosen, console)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--tokens", type=options.positive, default=1024)
    made.add_argument("--width", type=options.positive, default=576, help="(default: 576, SmolLM2-135M's)")
    made.add_argument("--vocabulary", type=options.positive, default=49152, help="(default: 49152, SmolLM2's)")
    options.add_measuring(made, rounds=5)
    return made


if __name__ == "__main__":
    main(cases, parser().parse_args())
