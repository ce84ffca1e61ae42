"""The options that the benchmark scripts have in common, and what is made of them."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from benchlib import work
from benchlib.official import Models

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
LENGTHS = (200, 200)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parser(description: str | None, responses: int, rounds: int) -> argparse.ArgumentParser:
    """`responses` and `rounds` are defaults."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--model", default=MODEL, help=f"hub id or folder of a causal LM, or `random` for a tiny one (default: {MODEL})"
    )
    made.add_argument("--data", help="grouped responses, such as a rollouts file; by default text is generated")
    made.add_argument(
        "--lengths",
        type=positive,
        nargs=2,
        metavar=("PROMPT", "RESPONSE"),
        help="tokens of a generated prompt, mean tokens of a generated response (default: 200 200)",
    )
    made.add_argument("--prompts", type=positive, default=1, help="prompts in one measurement (default: 1)")
    made.add_argument(
        "--responses", type=positive, default=responses, help=f"responses to each prompt (default: {responses})"
    )
    made.add_argument("--noise", type=float, default=0.05, help="of the policy's weights (default: 0.05)")
    made.add_argument("--beta", type=float, default=0.05)
    add_measuring(made, rounds)
    return made


def add_measuring(made: argparse.ArgumentParser, rounds: int) -> None:
    """What `run.compare` and `run.main` read. `rounds` is a default."""
    made.add_argument(
        "--rounds", type=positive, default=rounds, help=f"timed runs of every variant (default: {rounds})"
    )
    made.add_argument("--variants", nargs="+", metavar="NAME", help="only these; the first of all is always run")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    made.add_argument("--dtype", choices=DTYPES, default="float32", help="of weights and arithmetic")
    made.add_argument("--threads", type=positive, help="of torch (default: torch's own)")
    made.add_argument(
        "--profile",
        nargs="*",
        metavar="NAME",
        help="show the operators of these variants; without a name, of ours that reach under 60%% of the matmul rate",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    made.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write or update a section, docs/performance.md say"
    )


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with defaults that depend on others filled in and what cannot go together refused."""
    chosen = parser.parse_args(arguments)
    if chosen.data and (chosen.lengths or getattr(chosen, "correct", None)):
        parser.error("--lengths and --correct are for generated responses; leave them out with --data")
    chosen.lengths = tuple(chosen.lengths or LENGTHS)
    return chosen


def positive(text: str) -> int:
    """An option's value that must be a whole number above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above zero")
    return number


def open_models(options: argparse.Namespace) -> tuple[Models, PreTrainedTokenizerBase]:
    """Policy, reference and tokenizer on the device asked for; threads are set."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # of names that transformers changes, not of ours
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if options.threads:
        torch.set_num_threads(options.threads)
    policy, reference, tokenizer = work.open_models(
        options.model, DTYPES[options.dtype], options.device, options.noise, options.seed
    )
    return Models(policy, reference, tokenizer.pad_token_id or 0, options.beta), tokenizer


def read_work(
    options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, correct: int | None = None, mixed: bool = False
) -> work.Work:
    """The responses of `--data`, or generated ones."""
    if options.data:
        return work.read(options.data, tokenizer, options.prompts, options.responses, options.seed, mixed)
    return work.generate(tokenizer, options.lengths, options.prompts, options.responses, options.seed, correct)


def title(options: argparse.Namespace, what: str) -> str:
    """Names a case, and its section in the Markdown file: a run of the same case replaces the section."""
    lengths = Path(options.data).name if options.data else "{} + {} tokens".format(*options.lengths)
    return f"{what}: {Path(options.model).name} in {options.dtype} on {options.device}, {lengths}"
