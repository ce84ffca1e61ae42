"""CPU seconds and peak memory of reading, resuming and encoding files as large as real data sets.

    python scripts/bench_data.py rollouts      # ipr-rollout on a file of 30,000 x 8 responses: finished, or almost
    python scripts/bench_data.py training      # ipr-train on 32,942 x 8 responses, up to the first step of a tiny model
    python scripts/bench_data.py balance       # tokens of 8 processes in an optimiser step, as drawn and as shared out

The files are written by `scripts/generate_rollouts.py`. Every measurement runs in a process of its own; the seconds and
the memory of importing the library are measured alone, as `import`, and are part of all others.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from implicit_prm import fit
from implicit_prm.config import (
    CEConfig,
    DataConfig,
    ModelConfig,
    PolicyConfig,
    ProblemsConfig,
    RolloutConfig,
    SamplingConfig,
    TrainConfig,
)
from implicit_prm.models import reference
from implicit_prm.rollouts.provenance import Provenance, fixed_options, run_record
from implicit_prm.rollouts.run import rollout
from implicit_prm.rollouts.transformers_sampler import TransformersSampler
from implicit_prm.training import GroupSampler

LAST = 8  # problems that a file which is almost finished lacks


def generated(folder: Path, name: str, prompts: int) -> tuple[Path, Path]:
    """A generated file of responses and that of its problems."""
    path, problems = folder / f"{name}-{prompts}.jsonl", folder / f"{name}-{prompts}-problems.jsonl"
    if not problems.exists():
        script = Path(__file__).with_name("generate_rollouts.py")
        options = ["--prompts", str(prompts), "--problems", str(problems)]
        subprocess.run([sys.executable, str(script), str(path), *options], check=True)
    return path, problems


def rollout_config(path: Path, problems: Path) -> RolloutConfig:
    return RolloutConfig(
        policy=PolicyConfig("sandbox"),
        problems=ProblemsConfig(str(problems), prompt_template="{problem}"),
        sampling=SamplingConfig(n=8, max_new_tokens=8, batch_size=8 * LAST),
        output=str(path),
    )


def rollouts(options: argparse.Namespace) -> None:
    """Resume a finished file, and one that lacks its last problems, which are sampled with the sandbox's policy."""
    whole, problems = generated(options.folder, "rollouts", options.prompts or 30_000)
    config = rollout_config(whole, problems)
    sampler = TransformersSampler(config.policy, config.sampling, config.problems.text)
    cut = whole.with_name("cut.jsonl")
    with whole.open("rb") as source, cut.open("wb") as stream:
        stream.writelines(line for number, line in enumerate(source) if number < (options.prompts or 30_000) - LAST)
    for path in (whole, cut):
        Provenance(path).begin(fixed_options(config) | sampler.identity, run_record(config, [], 1), fresh=True)
    measure("import")
    measure("finished", whole, problems)
    measure("resumed and ended", cut, problems)


def tiny_model(folder: Path, tokenizer: str) -> Path:
    """A model of one narrow layer with a real model's tokenizer: what it computes takes no time."""
    path = folder / "tiny"
    if not path.exists():
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        loaded = AutoTokenizer.from_pretrained(tokenizer)
        sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        config = LlamaConfig(vocab_size=len(loaded), max_position_embeddings=8192, tie_word_embeddings=True, **sizes)
        LlamaForCausalLM(config).save_pretrained(path)
        loaded.save_pretrained(path)
    return path


def train_config(data: Path, model: Path, reference: str) -> TrainConfig:
    trainer = {"max_steps": 1, "per_device_train_batch_size": 1, "learning_rate": 1e-4, "report_to": "none"}
    return TrainConfig(
        data=DataConfig(train=str(data)),
        model=ModelConfig(name=str(model), beta=1.0, dtype="float32", reference=reference),
        loss=CEConfig(),
        trainer=trainer,
        output_dir=str(data.with_name("run")),
        overwrite=True,
    )


def training(options: argparse.Namespace) -> None:
    """Start a training run: first, with its data encoded, and with its reference log-probabilities as well."""
    data, _ = generated(options.folder, "training", options.prompts or 32_942)
    model = tiny_model(options.folder, options.tokenizer)
    os.environ["IPR_CACHE"] = str(options.folder / "cache")
    shutil.rmtree(options.folder / "cache", ignore_errors=True)
    measure("import")
    measure("first start", data, model)
    measure("second start", data, model)
    measure("reference pass", data, model)
    measure("third start", data, model)


def balance(options: argparse.Namespace) -> None:
    """How far the process with the most tokens is above the mean of 8, with 4 prompts each. Characters, for tokens."""
    data, _ = generated(options.folder, "training", options.prompts or 4_000)
    rows = map(json.loads, data.read_text(encoding="utf-8").splitlines())
    tokens = [sum(map(len, [row["prompt"], *row["completions"]])) for row in rows]
    for name, sampler in (
        ("as drawn", GroupSampler(len(tokens), 8, 0)),
        ("shared out", GroupSampler(len(tokens), 8, 0, processes=8, accumulation=4, tokens=tokens)),
    ):
        order, above = [item for item in sampler if item < len(tokens)], []
        for start in range(0, len(order) - 31, 32):
            load = [sum(tokens[item] for item in order[start + process : start + 32 : 8]) for process in range(8)]
            above.append(8 * max(load) / sum(load) - 1)
        print(f"{name:>10}: {sum(above) / len(above):.1%} above the mean")


def measure(what: str, *arguments: Path) -> None:
    """Run one measurement in a process of its own and print its CPU seconds and its peak memory."""
    command = [sys.executable, __file__, "--only", what, *map(str, arguments)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    print(f"{what:>20}: {found['seconds']:6.1f} CPU s, {found['megabytes']:6,.0f} MB", flush=True)


def run_alone(what: str, arguments: list[str]) -> None:
    paths = [Path(argument) for argument in arguments]
    if what == "reference pass":  # without a model's forward passes
        reference.response_logprobs = lambda _model, _prompt, ids, _tokens: [torch.zeros(len(one)) for one in ids]
    if what.endswith(("start", "pass")):
        fit(train_config(*paths, "initial" if what in ("reference pass", "third start") else "none"), lambda _: None)
    elif what != "import":
        rollout(rollout_config(*paths), lambda _: None)
    used, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = used.ru_utime + used.ru_stime + children.ru_utime + children.ru_stime
    print(json.dumps({"seconds": seconds, "megabytes": used.ru_maxrss / 1e3}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["rollouts", "training", "balance"])
    parser.add_argument("--folder", type=Path, default=Path("outputs/bench_data"))
    parser.add_argument("--prompts", type=int, help="fewer than at full size")
    parser.add_argument("--tokenizer", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="of the tiny model")
    options = parser.parse_args()
    {"rollouts": rollouts, "training": training, "balance": balance}[options.part](options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:
        run_alone(sys.argv[2], sys.argv[3:])
    else:
        main()
