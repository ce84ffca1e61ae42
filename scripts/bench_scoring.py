"""Time scoring the responses to a prompt: official implementation, TRL's and Liger's log-probabilities, this library.

    python scripts/bench_scoring.py                                    # 8 responses, about 200 + 200 tokens, on the CPU
    python scripts/bench_scoring.py --responses 64                     # three quarters of an hour on two cores
    python scripts/bench_scoring.py --lengths 150 2000 --responses 4   # long responses, little to share
    python scripts/bench_scoring.py --exact --responses 4              # the error of each variant against float64
    python scripts/bench_scoring.py --data rollouts.jsonl --responses 8 --device cuda --dtype bfloat16

All variants score the same token ids with the same two models. Their log-ratios are compared first; a difference above
the tolerance stops the run. Then they take turns, in a new order each round. Ctrl-C shows the results so far.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from benchlib import official, options, ours, rivals
from benchlib.cost import Cost, padded, shared, unpadded
from benchlib.official import Models
from benchlib.report import Report, Variant
from benchlib.run import compare, main
from benchlib.work import Work
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from implicit_prm import ImplicitPRMError
from implicit_prm.costs.operations import Tokens
from implicit_prm.costs.shapes import shape_of

# Our variants, by what is switched off.
OURS = {
    "ours": ours.Ablation(),
    "ours, reference not cached": ours.Ablation(cached=False),
    "ours, prompt not shared": ours.Ablation(shared=False),
    "ours, not sorted by length": ours.Ablation(sorted=False),
    "ours, neither cached nor shared": ours.Ablation(cached=False, shared=False),
}
# Largest difference to the official log-ratio of a response, in nats. bfloat16 is reported but not checked: its
# rounding error is as large as the log-ratios.
TOLERANCE = {"float32": 1e-3, "float16": 1.0}


def variants(models: Models, tokenizer: PreTrainedTokenizerBase, work: Work) -> dict[str, Callable[[], Variant]]:
    """Name to a function that makes the variant; the official one first."""
    forward = partial(Cost.forward, shape_of(models.policy))
    rows = [(len(prompt), len(response)) for prompt, response in work.rows]
    least = forward(sum((shared(*lengths) for lengths in work.lengths), Tokens()))
    trl_logits = "response" if models.policy.device.type == "cuda" else "all"

    def rival(run: Callable[[Sequence[official.Row]], list[float]], project: str = "all") -> Variant:
        cost = forward(padded(rows, official.SCORING_BATCH, project))
        return Variant(partial(run, work.rows), cost * 2, 2 * least.flops)

    def own(how: ours.Ablation) -> Variant:
        passes = 1 if how.cached else 2
        cost = least if how.shared else forward(unpadded(rows))
        return Variant(ours.score(models, tokenizer, work, how), cost * passes, passes * least.flops)

    return {
        "official": lambda: rival(partial(official.score, models)),
        "TRL's log-probs": lambda: rival(rivals.trl_score(models), trl_logits),
        "Liger's cross-entropy": lambda: rival(rivals.liger_score(models)),
        **{name: partial(own, how) for name, how in OURS.items()},
    }


def agreement(
    dtype: str, expected: list[float], exact: Sequence[float] = ()
) -> Callable[[str, Variant], dict[str, float]]:
    """A function that compares a variant's log-ratios with `expected`, which the first call fills, and with `exact`."""

    def furthest(found: Sequence[float], others: Sequence[float]) -> float:
        return max(abs(one - other) for one, other in zip(found, others, strict=True))

    def check(name: str, variant: Variant) -> dict[str, float]:
        found = variant.work()
        against_exact = {"nats off float64": furthest(found, exact)} if exact else {}
        if not expected:
            expected.extend(found)
            return against_exact
        worst = furthest(found, expected)
        if not worst <= TOLERANCE.get(dtype, float("inf")):
            raise ImplicitPRMError(f"{name}: a log-ratio is {worst:.1e} nats off the official one; nothing was timed")
        return {"nats off": worst} | against_exact

    return check


def in_float64(models: Models, work: Work) -> list[float]:
    """Log-ratios of the official implementation in float64, on copies of the models."""
    policy, reference = (copy.deepcopy(model).double() for model in (models.policy, models.reference))
    return official.score(replace(models, policy=policy, reference=reference), work.rows)


def cases(chosen: argparse.Namespace, console: Console) -> Iterator[Report]:
    """One report, on the responses to all prompts."""
    models, tokenizer = options.open_models(chosen)
    work = options.read_work(chosen, tokenizer)
    title = options.title(chosen, f"Scoring {chosen.responses} responses per prompt")
    ratios: list[float] = []
    check = agreement(chosen.dtype, ratios, in_float64(models, work) if chosen.exact else ())
    made = compare(title, variants(models, tokenizer, work), check, work, chosen, console)
    size = (sum(ratio**2 for ratio in ratios) / len(ratios)) ** 0.5
    made.extra["log-ratio of a response"] = f"{size:.2f} nats (root mean square)"
    yield made


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__, responses=8, rounds=5)
    made.add_argument("--exact", action="store_true", help="also compare with float64, which is slow")
    return made


if __name__ == "__main__":
    main(cases, options.parse(parser()))
