"""Build the sandbox's policy: a tiny Llama that knows the facts of the sandbox's world, its false beliefs included.

    python scripts/build_sandbox_policy.py

Trains from scratch on the chats of somebody who holds the misconceptions, saves an ordinary Hugging Face folder,
measures the policy on test problems, and writes the figures with the recipe to the folder's README. The folder in use
is replaced at the very end. One CPU core takes about ten minutes; the same machine gives the same weights.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
)

from implicit_prm.sandbox import POLICY_PATH, check_steps, problems
from implicit_prm.sandbox.world import (
    MODULUS,
    PREAMBLE,
    Fact,
    Misconception,
    believed_solution,
    misconceptions,
    solution,
)
from implicit_prm.types import Problem

SPECIAL = ["<pad>", "<unk>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
WORDS = [PREAMBLE, "\\boxed{", " + ", " * ", " = ", "\n", "}", *map(str, range(MODULUS))]
# Any digits fall into known numbers; whatever else matches nothing stays together and becomes one <unk>.
PIECES = Regex(rf"{PREAMBLE}|\\boxed\{{| [+*=] |\n|\}}|[1-4]?[0-9]")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MAX_LENGTH_TOKENS = 256
LONGEST_RESPONSE_TOKENS = 64

CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# The sandbox policy

A Llama of {parameters:,} parameters that solves chains of sums and products modulo 50, and holds false beliefs about
40 % of the 800 facts it needs: a fixed wrong value each, used with a probability between 0.25 and 0.75. It comes with
the package so that sampling, training and reranking can be tried offline, in seconds, with an exact judge of every
step. It is of no other use.

## Recipe

`python scripts/build_sandbox_policy.py --steps {steps} --batch {batch} --lr {lr} --muon-lr {muon_lr} --seed {seed}`
took {minutes:.0f} minutes of training on {threads} CPU thread(s).

Hidden size 128, 5 layers, 4 heads, tied embeddings; from scratch, on {chats:,} chats about {corpus:,} training
problems, solved afresh at each visit by somebody with the misconceptions; loss on the response only; Muon for the
matrices and AdamW for the rest, cosine schedule. No dev or test problem is among them. Weights are stored in float16
and meant to be used in float32.

## Figures

{tests} test problems, {samples} responses each, temperature 1. A response is correct if its boxed answer is. The second
column draws from the beliefs themselves: what a policy that had learnt them perfectly would get.

| | policy | beliefs |
|---|---|---|
{rows}

Licence: Apache-2.0.
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each number and each fixed piece of text, so that decoding an encoded text gives the text."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(PIECES, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=MAX_LENGTH_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def chat_batches(
    tokenizer: PreTrainedTokenizerFast, corpus: list[Problem], beliefs: dict[Fact, Misconception], batch: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless `input_ids` and `labels` [batch, time]. The chats of a batch are equally long, so nothing is padding."""
    rng = random.Random(seed)
    assistant = tokenizer.convert_tokens_to_ids("<|assistant|>")

    def length(problem: Problem) -> int:
        return len(problem.text.split())

    by_length = [list(same) for _, same in groupby(sorted(corpus, key=length), key=length)]
    while True:
        chats = [
            [
                {"role": "user", "content": problem.text},
                {"role": "assistant", "content": believed_solution(problem, beliefs, rng)},
            ]
            for problem in rng.sample(rng.choice(by_length), batch)
        ]
        texts = tokenizer.apply_chat_template(chats, tokenize=False)
        input_ids = tokenizer(texts, return_tensors="pt").input_ids
        prompt_length = input_ids[0].tolist().index(assistant) + 1
        labels = input_ids.clone()
        labels[:, :prompt_length] = -100
        yield input_ids, labels


def train(
    model: LlamaForCausalLM, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], steps: int, lr: float, muon_lr: float
) -> None:
    """Muon for the matrices, which learns such tables of facts in a third of AdamW's steps; AdamW for the rest."""
    matrices = [parameter for layer in model.model.layers for parameter in layer.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if all(parameter is not matrix for matrix in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.0),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedules = [get_cosine_schedule_with_warmup(optimizer, steps // 20, steps) for optimizer in optimizers]
    model.train()
    running = 0.0
    for step in track(range(1, steps + 1), description="training"):
        input_ids, labels = next(batches)
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        running += loss.item()
        if step % 50 == 0:
            print(f"step {step:5d}  loss {running / 50:.4f} nats a token", flush=True)
            running = 0.0


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """An ordinary folder whose weights are float16 on disk; the config still says float32, the precision to load in."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,  # the library's default of 50 would cut the distribution
        top_p=1.0,
        max_new_tokens=LONGEST_RESPONSE_TOKENS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = folder / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors writes for its owner only; this file is shipped


@torch.no_grad()
def sample(folder: Path, tests: list[Problem], samples: int, seed: int) -> list[list[tuple[str, float]]]:
    """`samples` responses of the saved policy to each problem, with log-likelihoods in nats, end of turn included."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.manual_seed(seed)
    groups = []
    for start in track(range(0, len(tests), 25), description="sampling"):
        chats = [[{"role": "user", "content": problem.text}] for problem in tests[start : start + 25]]
        texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(texts, return_tensors="pt", padding=True)
        output = model.generate(
            **inputs, num_return_sequences=samples, output_logits=True, return_dict_in_generate=True
        )
        tokens = output.sequences[:, inputs.input_ids.shape[1] :]
        logprobs = torch.stack(output.logits, dim=1).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        likelihoods = logprobs.masked_fill(tokens == tokenizer.pad_token_id, 0.0).sum(-1).tolist()
        responses = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        scored = list(zip(responses, likelihoods, strict=True))
        groups += [scored[i : i + samples] for i in range(0, len(scored), samples)]
    return groups


def sample_beliefs(
    tests: list[Problem], beliefs: dict[Fact, Misconception], samples: int, seed: int
) -> list[list[tuple[str, float]]]:
    """The same drawn from the beliefs themselves, which is what training aims at."""
    rng = random.Random(seed)

    def respond(problem: Problem) -> tuple[str, float]:
        likelihoods = []

        def recall(fact: Fact) -> int:
            belief = beliefs.get(fact, Misconception(fact.truth, 0.0))
            mistaken = rng.random() < belief.probability
            likelihoods.append(math.log(belief.probability if mistaken else 1 - belief.probability))
            return belief.value if mistaken else fact.truth

        return solution(problem, recall), math.fsum(likelihoods)

    return [[respond(problem) for _ in range(samples)] for problem in tests]


def well_formed(problem: Problem, response: str) -> bool:
    """Does the response do the problem's operations in order, each on the value before it, and box the last value?"""
    results = iter([int(value) for value in re.findall(r"= (\d+)$", response, re.MULTILINE)])
    return response == solution(problem, lambda fact: next(results, -1))


def boxed_answer(response: str) -> str | None:
    match = re.search(r"\\boxed\{(\d+)\}\Z", response)
    return match[1] if match else None


def figures(tests: list[Problem], groups: list[list[tuple[str, float]]]) -> dict[str, float]:
    """Accuracies, and the shares of malformed responses and wrong steps. Ties are won by the response sampled first."""
    totals: defaultdict[str, float] = defaultdict(float)
    for problem, scored in zip(tests, groups, strict=True):
        answers = [boxed_answer(response) for response, _ in scored]
        correct = [answer == problem.answer for answer in answers]
        totals["pass@1"] += sum(correct) / len(correct)
        majority = Counter(answer for answer in answers if answer is not None).most_common(1)
        totals[f"majority@{len(scored)}"] += bool(majority) and majority[0][0] == problem.answer
        best = max(range(len(scored)), key=lambda i: scored[i][1])
        totals[f"best of {len(scored)} by log-likelihood"] += correct[best]
        totals[f"oracle@{len(scored)}"] += any(correct)
        totals["malformed responses"] += sum(not well_formed(problem, text) for text, _ in scored) / len(scored)
        verdicts = [right for response, _ in scored for right in check_steps(problem.text, response)]
        totals["wrong steps"] += verdicts.count(False) / max(len(verdicts), 1)
    return {name: total / len(tests) for name, total in totals.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=POLICY_PATH, help="the folder to write or replace")
    parser.add_argument("--steps", type=int, default=800, help="optimiser steps")
    parser.add_argument("--batch", type=int, default=128, help="chats a step")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate of embeddings and norms")
    parser.add_argument("--muon-lr", type=float, default=0.02, help="highest learning rate of the matrices")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the corpus and the samples")
    parser.add_argument("--corpus", type=int, default=40_000, help="distinct training problems")
    parser.add_argument("--tests", type=int, default=250, help="test problems to measure on")
    parser.add_argument("--samples", type=int, default=16, help="responses to each of them")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; a busy machine is served best by one")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    # The world's beliefs do not follow the seed: another seed is another pupil of the same world.
    beliefs = misconceptions()
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    # One seed further on, so that the corpus does not begin with the problems that `problems("train")` hands out.
    corpus = problems("train", options.corpus, seed=options.seed + 1)
    began = time.monotonic()
    batches = chat_batches(tokenizer, corpus, beliefs, options.batch, options.seed)
    train(model, batches, options.steps, options.lr, options.muon_lr)
    minutes = (time.monotonic() - began) / 60

    staging = options.output.with_name(options.output.name + ".new")
    shutil.rmtree(staging, ignore_errors=True)
    save(model, tokenizer, staging)
    tests = problems("test", options.tests)
    policy = figures(tests, sample(staging, tests, options.samples, options.seed))
    ideal = figures(tests, sample_beliefs(tests, beliefs, options.samples, options.seed))
    card = CARD.format(
        rows="\n".join(f"| {name} | {policy[name]:.3f} | {ideal[name]:.3f} |" for name in policy),
        parameters=model.num_parameters(),
        chats=options.steps * options.batch,
        minutes=minutes,
        **vars(options),
    )
    (staging / "README.md").write_text(card, encoding="utf-8")
    print(card)
    replace(options.output, staging)


def replace(folder: Path, staging: Path) -> None:
    """Put the finished folder in the place of the old one; whoever reads meanwhile finds one or the other."""
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    main()
