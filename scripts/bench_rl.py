"""Time a step of reinforcement learning with dense rewards, relative to a step with outcomes alone.

    python scripts/bench_rl.py                                             # the sandbox's policy and problems
    python scripts/bench_rl.py --model MODEL --lengths 200 100 --prompts 2 # another one, on generated prompts
    python scripts/bench_rl.py --rounds 10 --threads 1

A step samples responses, scores them, and updates the policy, and with `updated` the PRM. Learning rates are (almost)
0, so that all variants sample the same responses. They take turns in every round, in a new order. The outcome is a coin
toss of the text, so the time of grading is left out. `prompt not shared` encodes the prompt anew for every response
that the PRM scores or learns from. Prints a Markdown table with its command.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import random
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from unittest import mock

import torch
from benchlib import options, report, work
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.utils import logging

from implicit_prm import ImplicitPRM, sandbox
from implicit_prm.models import shared_prompt
from implicit_prm.models.checkpoint import CheckpointMetadata
from implicit_prm.rl import PrimeConfig, PrimeTrainer
from implicit_prm.rl.reward_function import completion_text

OUTCOMES = "outcomes alone"
NO_RATE = 1e-12  # a learning rate must be above 0


@dataclass(frozen=True)
class Variant:
    """A way to train.

    Args:
        dense: with process rewards.
        updated: the PRM learns from the batch.
        shared: the PRM encodes a prompt once for all of its responses.
    """

    dense: bool = True
    updated: bool = False
    shared: bool = True


VARIANTS = {
    OUTCOMES: Variant(dense=False),
    "frozen PRM": Variant(),
    "frozen PRM, prompt not shared": Variant(shared=False),
    "updated PRM": Variant(updated=True),
    "updated PRM, prompt not shared": Variant(updated=True, shared=False),
}


@dataclass
class StepTimes(TrainerCallback):
    """Wall and CPU seconds of every step."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def on_step_begin(self, args, state, control, **_):
        self.started = time.perf_counter(), time.process_time()

    def on_step_end(self, args, state, control, **_):
        self.wall.append(time.perf_counter() - self.started[0])
        self.cpu.append(time.process_time() - self.started[1])


def coin(completions: list[Any], **_: Any) -> list[float]:
    """An outcome that depends on the text alone."""
    return [float(zlib.crc32(completion_text(one).encode()) & 1) for one in completions]


class Bench:
    """Trainers of all variants, which start from the same weights."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen, self.folder = chosen, tempfile.mkdtemp(prefix="ipr-bench-rl-")
        policy, self.reference, self.tokenizer = work.open_models(
            chosen.model, options.DTYPES[chosen.dtype], chosen.device, chosen.noise, chosen.seed
        )
        self.prm_policy = policy
        self.rows = self._prompts()

    def _prompts(self) -> Dataset:
        if self.chosen.model == "sandbox":
            texts = [problem.text for problem in sandbox.problems("train", self.chosen.prompts)]
        else:
            made = work.generate(self.tokenizer, (self.chosen.lengths[0], 8), self.chosen.prompts, 1, self.chosen.seed)
            texts = [group.prompt for group in made.groups]
        return Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts])

    def trainer(self, variant: Variant) -> tuple[PrimeTrainer, StepTimes]:
        """A trainer that takes `--steps` steps, and its clock."""
        prm, changes = None, {"process_coef": 0.0}
        if variant.dense:
            metadata = CheckpointMetadata(self.chosen.beta, reference="in memory", text=work.TEXT)
            prm = ImplicitPRM(copy.deepcopy(self.prm_policy), self.tokenizer, self.reference, metadata)
            changes = {"process_coef": 0.2}
        if variant.updated:
            changes |= {"prm_update": "after", "prm_learning_rate": NO_RATE}
        times = StepTimes()
        trainer = PrimeTrainer(
            copy.deepcopy(self.reference).requires_grad_(True),
            coin,
            self._arguments(**changes),
            prm=prm,
            train_dataset=self.rows,
            processing_class=self.tokenizer,
            callbacks=[times],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer, times

    def _arguments(self, **changes: Any) -> PrimeConfig:
        chosen = self.chosen
        return PrimeConfig(
            self.folder,
            per_device_train_batch_size=chosen.prompts * chosen.responses,
            num_generations=chosen.responses,
            max_completion_length=chosen.lengths[1],
            learning_rate=0.0,
            max_steps=chosen.steps,
            **{"use_cpu": chosen.device == "cpu", "bf16": False, "gradient_checkpointing": False},
            **{"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_strategy": "no"},
            **changes,
        )

    def seconds(self, variant: Variant, seed: int) -> tuple[float, float, float]:
        """Wall and CPU seconds per step, and mean tokens of a response."""
        trainer, times = self.trainer(variant)
        set_seed(seed)
        with contextlib.nullcontext() if variant.shared else not_shared():
            trainer.train()
        tokens = trainer.state.log_history[-1]["completions/mean_length"]
        return sum(times.wall) / len(times.wall), sum(times.cpu) / len(times.cpu), tokens


@contextlib.contextmanager
def not_shared() -> Iterator[None]:
    # An ablation, not an option: the library shares the prompt whenever the model can.
    with mock.patch.object(shared_prompt, "_shares", return_value=False):
        yield


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", default="sandbox", help="hub id or folder; `random` for a tiny one (default: sandbox)")
    made.add_argument(
        "--lengths",
        type=options.positive,
        nargs=2,
        default=(200, 48),
        metavar=("PROMPT", "RESPONSE"),
        help="tokens of a generated prompt (not of the sandbox's), and most tokens of a response (default: 200 48)",
    )
    made.add_argument("--prompts", type=options.positive, default=8, help="to a step (default: 8)")
    made.add_argument("--responses", type=options.positive, default=8, help="to a prompt (default: 8)")
    made.add_argument("--steps", type=options.positive, default=3, help="in a round (default: 3)")
    made.add_argument("--rounds", type=options.positive, default=5, help="(default: 5)")
    made.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    made.add_argument("--beta", type=float, default=0.05, help="of the PRM (default: 0.05)")
    made.add_argument("--noise", type=float, default=0.05, help="on the PRM's weights (default: 0.05)")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--dtype", choices=options.DTYPES, default="float32")
    made.add_argument("--threads", type=options.positive, help="torch threads (default: torch's own)")
    made.add_argument("--seed", type=int, default=0)
    return made


def measure(chosen: argparse.Namespace) -> tuple[dict[str, list[tuple[float, float]]], float]:
    """Wall and CPU seconds per step of every variant in every round, and mean tokens of a response."""
    bench, rng = Bench(chosen), random.Random(chosen.seed)
    names = [OUTCOMES, *(name for name in VARIANTS if name in chosen.variants and name != OUTCOMES)]
    for name in names:  # what happens once is not timed
        bench.seconds(VARIANTS[name], chosen.seed)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    lengths = []
    for number in range(chosen.rounds):
        for name in rng.sample(names, len(names)):
            wall, cpu, tokens = bench.seconds(VARIANTS[name], chosen.seed + number)
            found[name].append((wall, cpu))
            lengths.append(tokens)
    return found, sum(lengths) / len(lengths)


def table(found: dict[str, list[tuple[float, float]]]) -> str:
    """Medians over rounds, and ratios within a round: median, lowest and highest."""
    lines = ["| step with | seconds | CPU s | ratio to outcomes alone |", "|---|---:|---:|---:|"]
    for name, rounds in found.items():
        ratios = [one[0] / base[0] for one, base in zip(rounds, found[OUTCOMES], strict=True)]
        wall, cpu = (median(one[place] for one in rounds) for place in (0, 1))
        lines.append(
            f"| {name} | {wall:.2f} | {cpu:.2f} | {median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] |"
        )
    return "\n".join(lines)


def main() -> None:
    chosen = parser().parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    found, tokens = measure(chosen)
    print(f"```bash\n{report.command()}\n```\n")
    print(f"{chosen.prompts} prompts x {chosen.responses} responses of {tokens:.0f} tokens in the mean.\n")
    print(table(found))


if __name__ == "__main__":
    main()
