"""What a call costs on a CPU: CPU seconds, page faults and peak memory, each measured in a process of its own.

    python scripts/bench_cpu.py long --model MODEL --sizes 2048 8192 32768       # a shared prompt and plain rows
    python scripts/bench_cpu.py sampling --model MODEL --problems FILE           # and transformers' generate
    python scripts/bench_cpu.py allocator --model MODEL --dtype bfloat16 --problems FILE

A process first makes the same call on less, so that nothing is measured that happens once. CPU seconds hardly depend on
other load on the machine. Responses that are scored or trained on are random tokens.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from benchlib import measure, report
from transformers import GenerationConfig, set_seed
from transformers.utils import logging

from implicit_prm.config import PolicyConfig, ProblemsConfig, SamplingConfig, TextConfig
from implicit_prm.data.problems import load_problems
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models import loading
from implicit_prm.models.shared_prompt import PlainRows, SharedPrompt, pieces
from implicit_prm.models.source import ModelSource
from implicit_prm.rollouts import transformers_sampler
from implicit_prm.utils.allocator import keep_freed_memory

PROMPT = 200  # tokens
TASKS = {
    "long": ["score, shared prompt", "score, plain rows", "train, shared prompt", "train, plain rows"],
    "sampling": ["sample", "sample, generate"],
    "allocator": ["score, shared prompt", "train, shared prompt", "sample"],
}


@dataclass(frozen=True)
class Call:
    """What is measured: one of `TASKS`, `size` response tokens or problems, and whether freed memory is kept."""

    what: str
    size: int
    kept: bool


@dataclass(frozen=True)
class Cost:
    """What a call took. `tokens` are those of the responses; `peak_bytes` is of the process, with its model."""

    tokens: int
    cpu_seconds: float
    faults: int
    peak_bytes: int


def run(call: Call, options: argparse.Namespace) -> Cost:
    """Open the model, make a smaller call and measure the call."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if call.kept:
        keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    work = (sampling if call.what.startswith("sample") else scoring)(call, options)
    work(max(1, call.size // 8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tokens: list[int] = []
    measured = measure.measured(lambda: tokens.append(work(call.size)), "cpu", trim=not call.kept)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    peak = (measured.held_bytes or 0) + (measured.peak_bytes or 0)
    return Cost(tokens[0], measured.cpu_seconds, faults, peak)


def scoring(call: Call, options: argparse.Namespace) -> Callable[[int], int]:
    """Log-probabilities of responses of a given length to one prompt, with their gradient for training."""
    model: Any = loading.open_model(ModelSource.resolve(options.model), options.dtype)
    way = PlainRows if call.what.endswith("plain rows") else SharedPrompt
    train = call.what.startswith("train")
    torch.manual_seed(0)

    def work(length: int) -> int:
        prompt_ids, *responses = (
            torch.randint(model.config.vocab_size, (size,)).tolist() for size in [PROMPT] + [length] * options.responses
        )
        with torch.set_grad_enabled(train):
            prompt = way(model, prompt_ids)
            for piece in pieces([length] * options.responses, 1024, prompt.row_overhead):
                logprobs = prompt.logprobs([responses[place] for place in piece])
                if train:
                    logprobs.sum().backward()
            if train:
                prompt.backward()
        return length * options.responses

    return work


def sampling(call: Call, options: argparse.Namespace) -> Callable[[int], int]:
    """Responses to a number of problems, by this library or by `generate` in batches of four problems."""
    source = ModelSource.resolve(options.model)
    how = SamplingConfig(n=options.responses, max_new_tokens=options.max_new_tokens)
    config = ProblemsConfig(options.problems, split="test", limit=call.size, prompt_template=options.prompt_template)
    problems = load_problems(config, lambda _: None)
    encoder = Encoder(loading.open_tokenizer(source), TextConfig(prompt_template=options.prompt_template))
    model = transformers_sampler.open_for_sampling(source, PolicyConfig(options.model, dtype=options.dtype))
    batch = 4 if call.what.endswith("generate") else how.problems_per_batch

    def work(number: int) -> int:
        tokens = 0
        for start in range(0, number, batch):
            some = problems[start : min(start + batch, number)]
            if call.what.endswith("generate"):
                tokens += generate(model, encoder, [encoder.prompt_ids(problem.text) for problem in some], how)
            else:
                seeds = [(0, start + place) for place in range(len(some))]
                tokens += sum(one.tokens for one in transformers_sampler.sample(model, encoder, some, how, seeds))
        return tokens

    return work


def generate(model: Any, encoder: Encoder, contexts: Sequence[Sequence[int]], how: SamplingConfig) -> int:
    """Sample with transformers' `generate`; returns the number of tokens of the responses."""
    set_seed(0)
    width, pad = max(map(len, contexts)), encoder.end_of_turn
    ids = torch.tensor([[pad] * (width - len(one)) + list(one) for one in contexts])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in contexts])
    model.generation_config = GenerationConfig()
    found = model.generate(
        ids.repeat_interleave(how.n, 0),
        attention_mask=mask.repeat_interleave(how.n, 0),
        generation_config=GenerationConfig(
            max_new_tokens=how.max_new_tokens, do_sample=True, top_k=0, pad_token_id=pad, eos_token_id=pad
        ),
    )[:, width:]
    ended = (found == pad).long().cumsum(-1).clamp(max=1)
    return int((ended.cumsum(-1) <= 1).sum())


def main() -> None:
    """Measure every call in a new process and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--model", default="sandbox", help="hub id, folder or `sandbox` (the default)")
    parser.add_argument("--dtype", default="float32", help="(default: float32)")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own)")
    parser.add_argument("--sizes", type=int, nargs="+", help="response tokens, or problems when sampling")
    parser.add_argument("--responses", type=int, default=8, help="responses per prompt (default: 8)")
    parser.add_argument("--problems", default="sandbox", help="as problems.name (default: sandbox)")
    parser.add_argument("--prompt-template", default="{problem}", help="as problems.prompt_template")
    parser.add_argument("--max-new-tokens", type=int, default=48, help="when sampling (default: 48)")
    parser.add_argument("--only", nargs="+", metavar="CALL", help="only these of the task's calls")
    options = parser.parse_args()
    print(f"```bash\n{report.command()}\n```\n")
    print("| call | size | freed memory | tokens | CPU s | tokens / CPU s | page faults | peak MB |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    kept = (False, True) if options.task == "allocator" else (False,)
    for what in options.only or TASKS[options.task]:
        default = [16] if what.startswith("sample") else [160]
        for call in (Call(what, size, one) for size in options.sizes or default for one in kept):
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                cost = pool.submit(partial(run, call, options)).result()
            print(
                f"| {what} | {call.size:,} | {'kept' if call.kept else 'returned'} | {cost.tokens:,} "
                f"| {cost.cpu_seconds:.1f} | {cost.tokens / cost.cpu_seconds:.0f} | {cost.faults:,} "
                f"| {cost.peak_bytes / 1e6:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
