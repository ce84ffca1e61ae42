"""The experiment of docs/results/qwen05b-gsm8k.md: does an implicit PRM of 0.5 B parameters select better answers?

    python scripts/qwen05b_gsm8k.py --model FOLDER --data FOLDER --server http://127.0.0.1:8011/v1

Many hours on two CPU cores. Each stage is one command; run the same command again to resume. Without `--server`, the
responses in OUT/train.jsonl and OUT/test.jsonl are used. `--list` prints the commands, and which of them are done.

Only problems with correct and incorrect responses are trained on and scored. The others need no score: whichever of
their responses is selected, the result is the same. Models are trained on at most two correct and two incorrect
responses to each problem, which takes half of the time of all eight. Pool and ProcessBench are both made from GSM8K's
test set: solutions to problems that pool models are trained on are left out of ProcessBench, for all models. A 7B
model solves most of MATH-500: of its problems, the first with both kinds among eight random responses are scored.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stages import Stage, read_record, run_stage

from implicit_prm.config import ProblemsConfig, TextConfig
from implicit_prm.data.groups import is_mixed, load_groups, take_responses
from implicit_prm.data.readers import read_rows
from implicit_prm.data.tokenization import build_prompt
from implicit_prm.utils.io import atomic_write

TRAIN_PROBLEMS, TEST_PROBLEMS = 400, 150
# Beta and learning rate that are tried with cross-entropy, on 4 random responses to each of 60 prompts. The pair with
# the highest accuracy on pairs of responses to the dev prompts is used for all losses. The dev prompts are training
# prompts that are held out: here 40 of the first 100, most of which the final models are trained on.
TRIED = [(0.05, 3e-4), (0.05, 1e-3)]
# An explicit reward model has a new head, and the hidden states that it reads are large, so that one step of Adam moves
# a logit far. Learning rates are tried for the outcome reward model; the value head has the one that it uses.
RATES = {"orm": (1e-4, 3e-4), "value_head": (1e-4,)}
DEV_PROMPTS = 40
MATH_PROBLEMS, MATH_RESPONSES = 45, 8
LONG = 2048  # tokens of a prompt and a response; those of MATH-500 and ProcessBench are longer than those of GSM8K
SMALL = ["data.max_prompts=60", "data.max_responses=4"]
# On a CPU, in bfloat16 and at these lengths, faster than sdpa. DPO computes no response twice if
# all responses to a prompt fit in one forward pass.
FASTER = {"ce": ["model.attn_implementation=eager"]}
FASTER["dpo"] = [*FASTER["ce"], "max_tokens_per_batch=2048"]
# Half of the responses to a problem, where only the AUROC is asked for.
HALF = ["max_responses=8"]
POOL = ["data.max_prompts=180"]  # as many prompts as the model's own responses have
COMPARED = ("ce", "shuffled", "orm")  # with the models that are trained on the pool, on responses of other models
SIDES = (True, False)
OF_RESPONSES = ("completions", "correctness", "verdicts", "answer_rules", "finished", "models")
OF_EACH_LABEL = 2  # responses to a prompt that are trained on
CRITERION = "eval_rewards/accuracies"
EXPERIMENT = "experiment=qwen25_coder_05b_gsm8k"
# MATH-500 and ProcessBench have bare problems; the responses that are trained on follow this prompt.
TEMPLATE = ProblemsConfig.prompt_template
PROMPT = f'prompt_template="{TEMPLATE}"'


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of Qwen2.5-Coder-0.5B-Instruct")
    parser.add_argument("--data", type=Path, required=True, help="folder of GSM8K, MATH-500 and ProcessBench files")
    parser.add_argument("--server", help="address of an OpenAI-compatible server of the model, to sample from")
    parser.add_argument("--out", type=Path, default=Path("outputs/qwen05b"), help="folder of the results")
    parser.add_argument("--only", nargs="*", default=[], help="stages whose names start with one of these")
    parser.add_argument("--list", action="store_true", help="print the commands, and run none")
    parser.add_argument("--minutes", type=float, default=600, help="time limit of each stage")
    return parser.parse_args()


def stages(options: argparse.Namespace) -> Iterator[Stage]:
    """All stages in order, as far as the results of earlier ones determine them."""
    out = options.out
    if options.server:
        yield sampling("train", TRAIN_PROBLEMS, 8, options)
        yield sampling("test", TEST_PROBLEMS, 16, options)
    if not (out / "test.jsonl").exists():
        return
    names = ("train_mixed", "test_mixed", "balanced", "shuffled")
    every, test, train, shuffled = (out / f"{name}.jsonl" for name in names)
    write_rows(every, mixed(out / "train.jsonl"))
    write_rows(test, mixed(out / "test.jsonl"))
    write_rows(train, balanced(every))
    write_rows(shuffled, with_shuffled_labels(train))
    for beta, rate in TRIED:
        yield training(tuned(beta, rate), "ce", beta, rate, every, options, SMALL)
    chosen = choose(options)
    if chosen is None:
        return
    beta, rate = chosen
    for name, loss, data in (("ce", "ce", train), ("dpo", "dpo", train), ("shuffled", "ce", shuffled)):
        yield training(name, loss, beta, rate, data, options, FASTER[loss])
        yield best_of_n(name, test, options, HALF if name == "shuffled" else [])
    for kind, rates in RATES.items():
        for one in rates:
            yield explicit(kind, one, train, options)
        if choose_explicit(kind, options) is not None:
            yield best_of_n(kind, test, options, HALF if kind == "value_head" else [])
    pool = out / "pool"
    yield prepared_pool(pool, options)
    if not (pool / "train.jsonl").exists():
        return
    write_rows(pool / "balanced.jsonl", balanced(pool / "train.jsonl"))
    bench = options.out / "processbench_gsm8k.jsonl"
    write_rows(bench, unseen(options.data / "processbench_gsm8k.jsonl.gz", pool / "train.jsonl"))
    math500 = options.out / "math500_mixed.jsonl"
    write_rows(math500, math_rows(options.data / "math500_bon32.jsonl.gz"))
    for loss in ("ce", "dpo"):
        yield training(f"pool-{loss}", loss, beta, rate, pool / "balanced.jsonl", options, FASTER[loss] + POOL)
        yield best_of_n(f"pool-{loss}", test, options, HALF)
    for name in ("pool-ce", "pool-dpo", *COMPARED):
        yield best_of_n(name, pool / "held_out.jsonl", options, HALF)
    for name in ("pool-ce", "pool-dpo", *COMPARED):
        yield best_of_n(name, math500, options, length=LONG)
    for name in ("ce", "dpo", "shuffled", "value_head", "pool-ce", "pool-dpo"):
        yield process_bench(name, bench, options)


def sampling(split: str, problems: int, responses: int, options: argparse.Namespace) -> Stage:
    """Sample and grade responses to the first problems of a split."""
    output = options.out / f"{split}.jsonl"
    arguments = ["policy=server", f"policy.base_url={options.server}", f"policy.name={Path(options.model).name}"]
    arguments += ["policy.concurrency=22", "policy.timeout_s=7200", "problems=gsm8k", f"problems.split={split}"]
    arguments += [f"problems.path={options.data / f'gsm8k_{split}.jsonl.gz'}", f"problems.limit={problems}"]
    arguments += ["sampling=default", f"sampling.n={responses}", "sampling.temperature=0.7"]
    arguments += ["sampling.max_new_tokens=512", f"output={output}"]
    return Stage(f"sample {split}", "rollout", arguments, output, output, sampled=True)


def prepared_pool(folder: Path, options: argparse.Namespace) -> Stage:
    """Responses of other models, split by problem."""
    arguments = [str(options.data / "gsm8k_multimodel_rollouts.jsonl.gz"), "--out", str(folder)]
    return Stage("pool", "scripts/prepare_multimodel.py", arguments, folder / "train.jsonl")


def training(
    name: str, loss: str, beta: float, rate: float, data: Path, options: argparse.Namespace, more: Iterable[str] = ()
) -> Stage:
    """Train an adapter. The dev metrics in its log.jsonl are those of the held-out training prompts."""
    folder = options.out / name.replace(" ", "-")
    arguments = [EXPERIMENT, f"loss={loss}", f"model.name={options.model}", f"model.beta={beta}", *more]
    arguments += [f"data.train={data}", f"data.hold_out_prompts={DEV_PROMPTS}", f"trainer.learning_rate={rate:g}"]
    arguments += [f"output_dir={folder}", "trainer.resume_from_checkpoint=true"]
    return Stage(name, "train", arguments, folder / "train_metrics.json", data)


def explicit(kind: str, rate: float, data: Path, options: argparse.Namespace) -> Stage:
    """Train an explicit reward model on the same responses, with the same adapter as the implicit ones."""
    name = f"{kind}-{rate:g}"
    arguments = [f"kind={kind}", "labels=outcome", "model=hub", f"model.name={options.model}", "model.dtype=bfloat16"]
    arguments += ["model.attn_implementation=eager", "model.lora={r:16,alpha:32}", "data=rollouts"]
    arguments += [f"data.train={data}", "data.max_length=1024", f"data.hold_out_prompts={DEV_PROMPTS}"]
    arguments += ["data.too_long=drop", "trainer=default", "trainer.gradient_accumulation_steps=4"]
    arguments += [f"trainer.learning_rate={rate:g}", "trainer.save_steps=10", "trainer.eval_strategy=epoch"]
    arguments += [f"output_dir={options.out / name}", "trainer.resume_from_checkpoint=true"]
    return Stage(name, "baseline", arguments, options.out / name / "train_metrics.json", data)


def best_of_n(
    name: str, candidates: Path, options: argparse.Namespace, more: Iterable[str] = (), length: int = 1024
) -> Stage:
    """Rerank candidates, of at most `length` tokens with their prompt, with a trained model."""
    stem = candidates.name.split(".")[0]
    checkpoint = folder_of(name, options)
    folder = checkpoint / f"eval-{stem}"
    arguments = [f"checkpoint={checkpoint}", "dtype=bfloat16", f"max_length={length}"]
    arguments.append(f"candidates={candidates}")
    return Stage(
        f"{name} on {stem}", "eval", [*arguments, f"output_dir={folder}", *more], folder / "metrics.json", candidates
    )


def process_bench(name: str, gsm8k: Path, options: argparse.Namespace) -> Stage:
    """Find the first wrong step of solutions in ProcessBench. `gsm8k` has those to problems that no model has seen."""
    subsets = f"{gsm8k},{options.data / 'processbench_math.jsonl.gz'}"
    checkpoint = folder_of(name, options)
    folder = checkpoint / "processbench"
    arguments = ["task=processbench", f"checkpoint={checkpoint}", "dtype=bfloat16", f"max_length={LONG}"]
    arguments += [f"subsets=[{subsets}]", "max_problems=200", PROMPT, f"output_dir={folder}"]
    return Stage(f"{name} on processbench", "eval", arguments, folder / "metrics.json")


def tuned(beta: float, rate: float) -> str:
    """Name of the run that tries these settings."""
    return f"tune ce {beta} {rate:g}"


def folder_of(name: str, options: argparse.Namespace) -> Path:
    """The checkpoint of a model; of an explicit one, the one with the chosen learning rate."""
    chosen = choose_explicit(name, options) if name in RATES else None
    return options.out / (name if chosen is None else f"{name}-{chosen:g}").replace(" ", "-")


def dev_result(name: str, options: argparse.Namespace) -> float | None:
    """Accuracy of a training run on pairs of responses to the dev prompts; None before its end."""
    metrics = folder_of(name, options) / "train_metrics.json"
    return json.loads(metrics.read_text(encoding="utf-8"))[CRITERION] if metrics.exists() else None


def choose(options: argparse.Namespace) -> tuple[float, float] | None:
    """Beta and learning rate with the best result on the dev prompts; None before all have been tried."""
    found = {tried: dev_result(tuned(*tried), options) for tried in TRIED}
    return max(TRIED, key=lambda tried: found[tried] or 0.0) if None not in found.values() else None


def choose_explicit(kind: str, options: argparse.Namespace) -> float | None:
    """The learning rate of an explicit reward model with the best result; None before all have been tried."""
    found = {rate: dev_result(f"{kind}-{rate:g}", options) for rate in RATES[kind]}
    return max(found, key=lambda rate: found[rate] or 0.0) if None not in found.values() else None


def mixed(source: Path) -> list[dict[str, Any]]:
    """The rows of a rollouts file with correct and incorrect responses."""
    rows = map(json.loads, source.read_text(encoding="utf-8").splitlines())
    return [row for row in rows if len(set(row["correctness"])) == 2]


def balanced(source: Path) -> list[dict[str, Any]]:
    """The rows with the first correct and incorrect responses, `OF_EACH_LABEL` of each at most."""
    rows = []
    for row in mixed(source):
        right, wrong = ([place for place, label in enumerate(row["correctness"]) if label is side] for side in SIDES)
        kept = sorted(right[:OF_EACH_LABEL] + wrong[:OF_EACH_LABEL])
        rows.append(row | {key: [row[key][place] for place in kept] for key in OF_RESPONSES if key in row})
    return rows


def math_rows(source: Path) -> list[dict[str, Any]]:
    """The first problems of MATH-500 with correct and incorrect ones among some random responses."""
    groups = take_responses(load_groups(str(source)), MATH_RESPONSES)
    text = TextConfig(prompt_template=TEMPLATE)
    return [
        {
            "id": group.id,
            "prompt": build_prompt(str(group.prompt), text),
            "answer": group.answer,
            "completions": group.completions,
            "correctness": group.correctness,
        }
        for group in [group for group in groups if is_mixed(group)][:MATH_PROBLEMS]
    ]


def with_shuffled_labels(source: Path, seed: int = 0) -> list[dict[str, Any]]:
    """The rows with their labels permuted among the responses to each problem: the control."""
    rng, rows = random.Random(seed), mixed(source)
    for row in rows:
        rng.shuffle(row["correctness"])
        row.pop("verdicts", None)
    return rows


def unseen(source: Path, train: Path) -> list[dict[str, Any]]:
    """The rows of ProcessBench whose problem is not in a training file."""
    seen = [json.loads(line)["prompt"] for line in train.read_text(encoding="utf-8").splitlines()]
    text = TextConfig(prompt_template=TEMPLATE)
    return [row for row in read_rows(str(source)) if build_prompt(row["problem"], text) not in seen]


def write_rows(target: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines, unless the file has them already."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if not target.exists() or target.read_bytes() != text:
        with atomic_write(target) as stream:
            stream.write(text)


def main() -> None:
    options = parse()
    for stage in stages(options):
        if options.only and not stage.name.startswith(tuple(options.only)):
            continue
        if options.list:
            read_record(stage, options.out)
            print(f"{'done' if stage.done else 'open'}  {stage.name}\n      {stage.typed}")
        else:
            run_stage(stage, options.out, options.minutes)


if __name__ == "__main__":
    main()
