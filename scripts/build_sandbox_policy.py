"""Build the sandbox's policy: a tiny Llama trained on solutions with the sandbox's misconceptions.

    python scripts/build_sandbox_policy.py

Trains the model from scratch, saves it as a Hugging Face folder, measures it on test problems, and writes recipe and
figures to the folder's README.md. The previous folder is replaced at the end. It takes about ten minutes on one CPU
core; the result is deterministic on one machine.
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
from implicit_prm.utils.progress import tracked

SPECIAL = ["<pad>", "<unk>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
WORDS = [PREAMBLE, "\\boxed{", " + ", " * ", " = ", "\n", "}", *map(str, range(MODULUS))]
# Any sequence of digits splits into known numbers. A piece of other text matches nothing and becomes one <unk>.
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

A Llama of {parameters:,} parameters that solves chains of sums and products modulo 50. It has misconceptions about
40 % of the 800 facts that it needs: for each, a fixed wrong value that it uses with a probability between 0.25 and
0.75. It is part of the package so that sampling, training and reranking can be tried offline in seconds, with an exact
check of every step. It has no other use.

## Recipe

`python scripts/build_sandbox_policy.py --steps {steps} --batch {batch} --lr {lr} --muon-lr {muon_lr} --seed {seed}`
({minutes:.0f} minutes of training on {threads} CPU thread(s)).

Hidden size 128, 5 layers, 4 heads, tied embeddings. Trained from scratch on {chats:,} solutions of {corpus:,} training
problems, each drawn anew according to the misconceptions; dev and test problems are not among them. The loss is on the
response only. Muon for the matrices, AdamW for the other weights, cosine schedule. The weights are stored in float16
and are meant to be used in float32.

## Figures

{tests} test problems, {samples} responses each, temperature 1. A response is correct if its boxed answer is. The column
"beliefs" samples from the misconceptions themselves, as a perfectly trained policy would.

| | policy | beliefs |
|---|---|---|
{rows}

Licence: Apache-2.0.
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per number and fixed piece of text, which decodes to exactly the text it encoded."""
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
    """Yield `input_ids` and `labels` [batch, tokens] without end. The chats of a batch are equally long: no padding."""
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
    """Train with Muon for the matrices, which needs a third of AdamW's steps here, and AdamW for the other weights."""
    matrices = [parameter for layer in model.model.layers for parameter in layer.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if all(parameter is not matrix for matrix in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.0),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedules = [get_cosine_schedule_with_warmup(optimizer, steps // 20, steps) for optimizer in optimizers]
    model.train()
    running = 0.0
    for step in range(1, steps + 1):
        input_ids, labels = next(batches)
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        running += loss.item()
        if step % 50 == 0:
            print(f"training: step {step} of {steps}, loss {running / 50:.4f} nats per token", flush=True)
            running = 0.0


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save with float16 weights, to halve the file. The config says float32, the type to load them in."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,  # the default of 50 would truncate the distribution
        top_p=1.0,
        max_new_tokens=LONGEST_RESPONSE_TOKENS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = folder / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors makes the file readable by its owner only


@torch.no_grad()
def sample(folder: Path, tests: list[Problem], samples: int, seed: int) -> list[list[tuple[str, float]]]:
    """Sample responses of the saved policy, with their log-likelihoods in nats (the end of turn included)."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.manual_seed(seed)
    groups = []
    for start in tracked(range(0, len(tests), 25), "sampling"):
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
    """Like `sample`, from the misconceptions themselves: what a perfectly trained policy would do."""
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
    """Whether the response applies the operations in order, each to the previous result, and boxes the last one."""
    results = iter([int(value) for value in re.findall(r"= (\d+)$", response, re.MULTILINE)])
    return response == solution(problem, lambda fact: next(results, -1))


def boxed_answer(response: str) -> str | None:
    match = re.search(r"\\boxed\{(\d+)\}\Z", response)
    return match[1] if match else None


def figures(tests: list[Problem], groups: list[list[tuple[str, float]]]) -> dict[str, float]:
    """Accuracies and the shares of malformed responses and wrong steps. Of tied responses, the first sampled wins."""
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
    parser.add_argument("--output", type=Path, default=POLICY_PATH, help="folder to write or replace")
    parser.add_argument("--steps", type=int, default=800, help="optimiser steps")
    parser.add_argument("--batch", type=int, default=128, help="chats per step")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate of AdamW (embeddings, norms)")
    parser.add_argument("--muon-lr", type=float, default=0.02, help="peak learning rate of Muon (matrices)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, corpus and samples")
    parser.add_argument("--corpus", type=int, default=40_000, help="number of training problems")
    parser.add_argument("--tests", type=int, default=250, help="number of test problems")
    parser.add_argument("--samples", type=int, default=16, help="responses to each test problem")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    # The misconceptions do not depend on --seed.
    beliefs = misconceptions()
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    # Another seed, so that the corpus does not start with the problems that `problems("train")` returns.
    corpus = problems("train", options.corpus, seed=options.seed + 1)
    start = time.monotonic()
    batches = chat_batches(tokenizer, corpus, beliefs, options.batch, options.seed)
    train(model, batches, options.steps, options.lr, options.muon_lr)
    minutes = (time.monotonic() - start) / 60

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
    """Replace the old folder by the finished one."""
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    main()
