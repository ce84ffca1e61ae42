"""The options that the benchmark scripts share, and the models and work they select."""

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
    """A parser with the shared options. `responses` and `rounds` are defaults."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_models(made)
    made.add_argument("--data", help="grouped responses, such as a rollouts file (default: generated text)")
    made.add_argument(
        "--lengths",
        type=positive,
        nargs=2,
        metavar=("PROMPT", "RESPONSE"),
        help="tokens of a generated prompt and mean tokens of a generated response (default: 200 200)",
    )
    made.add_argument("--prompts", type=positive, default=1, help="prompts in one measurement (default: 1)")
    made.add_argument(
        "--responses", type=positive, default=responses, help=f"responses per prompt (default: {responses})"
    )
    made.add_argument("--beta", type=float, default=0.05)
    add_measuring(made, rounds)
    return made


def add_models(made: argparse.ArgumentParser) -> None:
    """Add the options that say which policy and reference `open_models` opens, besides those of `add_measuring`."""
    made.add_argument(
        "--model", default=MODEL, help=f"hub id or folder of a causal LM, or `random` for a tiny one (default: {MODEL})"
    )
    made.add_argument(
        "--noise",
        type=float,
        default=0.05,
        help="noise on the policy's weights, in standard deviations (default: 0.05)",
    )


def add_measuring(made: argparse.ArgumentParser, rounds: int) -> None:
    """Add the options that `run.compare` and `run.main` read. `rounds` is a default."""
    made.add_argument(
        "--rounds", type=positive, default=rounds, help=f"timed runs of every variant (default: {rounds})"
    )
    made.add_argument("--variants", nargs="+", metavar="NAME", help="only these variants, and always the first")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    made.add_argument("--dtype", choices=DTYPES, default="float32", help="of weights and arithmetic")
    made.add_argument("--threads", type=positive, help="torch threads (default: torch's own)")
    made.add_argument(
        "--profile",
        nargs="*",
        metavar="NAME",
        help="profile these variants; without a name, those of ours below 60%% of the matmul rate",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    made.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="update a section of a page such as docs/performance.md",
    )


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with dependent defaults filled in and incompatible options refused."""
    chosen = parser.parse_args(arguments)
    if chosen.data and (chosen.lengths or getattr(chosen, "correct", None)):
        parser.error("--lengths and --correct apply to generated responses; they cannot be combined with --data")
    chosen.lengths = tuple(chosen.lengths or LENGTHS)
    return chosen


def positive(text: str) -> int:
    """Parse an integer above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number above zero, got {number}")
    return number


def open_models(options: argparse.Namespace) -> tuple[Models, PreTrainedTokenizerBase]:
    """Set the number of threads and open policy, reference and tokenizer on the chosen device."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # transformers renames methods
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
    """The responses in `--data`, or generated ones."""
    if options.data:
        return work.read(options.data, tokenizer, options.prompts, options.responses, options.seed, mixed)
    return work.generate(tokenizer, options.lengths, options.prompts, options.responses, options.seed, correct)


def title(options: argparse.Namespace, what: str) -> str:
    """The title of a case, and of its section in the Markdown file, which the next run of the same case replaces."""
    lengths = Path(options.data).name if options.data else "{} + {} tokens".format(*options.lengths)
    return f"{what}: {Path(options.model).name} in {options.dtype} on {options.device}, {lengths}"
