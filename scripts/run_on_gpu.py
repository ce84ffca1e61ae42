"""Run all steps on one GPU and report the results: sample responses, train with CE and DPO, evaluate.

    python scripts/run_on_gpu.py --model Qwen/Qwen2.5-1.5B-Instruct                  # MATH and MATH-500 from the hub
    python scripts/run_on_gpu.py --model FOLDER --data FOLDER                        # both from local files
    python scripts/run_on_gpu.py --model FOLDER --rollouts FILE --candidates FILE    # existing graded responses
    python scripts/run_on_gpu.py --model sandbox --device cpu --problems 40 --test-problems 20    # minutes, no GPU

Each stage is one command, in its own process and with a time limit. Run the same command again after an interruption:
finished stages are skipped, and the interrupted one resumes. Where a command may run for ten minutes at most, use
`--call-minutes 7`: a stage that is interrupted has two minutes to save its work, and the next call resumes it. The
report, docs/results/<GPU>-<model>.md, has accuracies and AUROCs with intervals, benchmarks of scoring and training
against the official implementation, tokens per second and peak memory. Arguments after `--` are overrides for
`ipr-train`:

    python scripts/run_on_gpu.py --model Qwen/Qwen2.5-1.5B-Instruct -- model.lora=null trainer.learning_rate=1e-6
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages import Stage, nvidia_smi, read_record, run_stage

from implicit_prm.evaluation.formatting import decimals
from implicit_prm.utils.io import atomic_write

LOSSES = ("ce", "dpo")
BENCH = ["gsm8k", "math"]
BENCHMARKS, BENCHMARK_PAGE = ("scoring", "training"), "benchmarks.md"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Qwen/Qwen2.5-1.5B-Instruct", help="hub id, local folder, or sandbox")
    parser.add_argument("--data", help="folder with math_train and math500 (.jsonl, .jsonl.gz or .parquet)")
    parser.add_argument("--rollouts", type=Path, help="graded responses to train on, instead of sampling them")
    parser.add_argument("--candidates", type=Path, help="responses to rerank, instead of sampling them")
    parser.add_argument("--problems", type=int, default=1000, help="number of MATH training problems")
    parser.add_argument("--responses", type=int, default=8, help="responses to each")
    parser.add_argument("--test-problems", type=int, default=500, help="number of MATH-500 problems")
    parser.add_argument("--test-responses", type=int, default=16, help="responses to each: N of best-of-N")
    parser.add_argument(
        "--bench-problems", type=int, default=400, help="problems per ProcessBench subset: 20 or more, or 0 for none"
    )
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="limit of a sampled response")
    parser.add_argument("--score-dtype", default="float32", help="weights for scoring: float32, bfloat16 or float16")
    parser.add_argument("--minutes", type=float, default=60, help="time limit of each stage")
    parser.add_argument(
        "--call-minutes", type=float, default=float("inf"), help="time limit of this call (default: none)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of the benchmarks, or 0 for none")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="folder of the results")
    parser.add_argument("--report", type=Path, default=Path("docs/results"), help="folder of the report")
    parser.add_argument("--device", default="cuda:0", help="cuda:K or cpu")
    parser.add_argument("overrides", nargs="*", help="overrides for ipr-train")
    options = parser.parse_args()
    if not re.fullmatch(r"cpu|cuda:\d+", options.device):
        parser.error(f"--device {options.device}: expected cpu or cuda:K")
    for name in ("rollouts", "candidates"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            parser.error(f"--{name} {path}: no such file")
    if options.device != "cpu" and not gpu(options.device):
        parser.error(f"--device {options.device}: nvidia-smi lists no such GPU; use --device cpu")
    return options


def stages(options: argparse.Namespace) -> list[Stage]:
    """All stages in order. Responses are not sampled where a file of them was given."""
    rollouts = options.rollouts or options.out / "train.jsonl"
    candidates = options.candidates or options.out / "candidates.jsonl"
    listed = []
    if options.rollouts is None:
        listed.append(sampling("sample", rollouts, "math", options.problems, options.responses, options))
    if options.candidates is None:
        listed.append(
            sampling("candidates", candidates, "math500", options.test_problems, options.test_responses, options)
        )
    listed += [training(loss, rollouts, options) for loss in LOSSES]
    listed += [reranking(loss, candidates, options) for loss in LOSSES]
    if options.bench_problems and options.model != "sandbox":  # whose tokenizer only knows its own problems
        listed += [process_bench(loss, options) for loss in LOSSES]
    if options.rounds:
        listed += [benchmark(name, options) for name in BENCHMARKS]
    return listed


def sampling(name: str, path: Path, source: str, problems: int, responses: int, options: argparse.Namespace) -> Stage:
    """Sample and grade responses to MATH (`source` math) or MATH-500 (math500), or to the sandbox's problems."""
    if options.model == "sandbox":
        split = "train" if source == "math" else "test"
        overrides = ["policy=sandbox", "problems=sandbox", f"problems.split={split}"]
    else:
        overrides = ["policy=hub", f"policy.name={options.model}", *source_of(source, options.data)]
        overrides += ["policy.dtype=bfloat16"] if options.device != "cpu" else []
        overrides += ["sampling=default", f"sampling.max_new_tokens={options.max_new_tokens}"]
    overrides += [f"problems.limit={problems}", f"sampling.n={responses}", f"output={path}"]
    return Stage(name, "rollout", overrides, path, path, sampled=True)


def training(loss: str, rollouts: Path, options: argparse.Namespace) -> Stage:
    """Train with a loss, with checkpoints to resume from."""
    folder = options.out / loss
    if options.model == "sandbox":
        overrides = ["data.hold_out_prompts=0", "trainer.eval_strategy=no"]
    else:
        overrides = ["experiment=smollm2_135m_math", f"model.name={options.model}"]
        overrides += ["trainer.bf16=true"] if options.device != "cpu" else []
    overrides += ["+trainer.use_cpu=true"] if options.device == "cpu" else []
    overrides += [f"loss={loss}", f"data.train={rollouts}", f"output_dir={folder}", "++trainer.save_strategy=steps"]
    overrides += ["++trainer.save_steps=20", "trainer.resume_from_checkpoint=true", *options.overrides]
    return Stage(f"train {loss}", "train", overrides, folder / "train_metrics.json", rollouts)


def reranking(loss: str, candidates: Path, options: argparse.Namespace) -> Stage:
    """Evaluate the model trained with a loss by best-of-N."""
    folder = options.out / loss / "eval"
    overrides = [f"checkpoint={options.out / loss}", f"candidates={candidates}", f"output_dir={folder}"]
    overrides += ["too_long=lowest", f"dtype={options.score_dtype}"]
    overrides += ["steps=newline"] if options.model == "sandbox" else []
    return Stage(f"rerank {loss}", "eval", overrides, folder / "metrics.json", candidates)


def process_bench(loss: str, options: argparse.Namespace) -> Stage:
    """Evaluate the model trained with a loss on ProcessBench (GSM8K and MATH), with cross-fitted thresholds."""
    checkpoint, folder = options.out / loss, options.out / loss / "processbench"
    subsets = BENCH if options.data is None else [str(file_of(f"processbench_{name}", options.data)) for name in BENCH]
    overrides = ["task=processbench", f"checkpoint={checkpoint}", f"subsets=[{','.join(subsets)}]"]
    overrides += [f"max_problems={options.bench_problems}", f"output_dir={folder}", "too_long=wrong"]
    overrides.append(f"dtype={options.score_dtype}")
    return Stage(f"processbench {loss}", "eval", overrides, folder / "metrics.json", None)


def benchmark(name: str, options: argparse.Namespace) -> Stage:
    """Time this library and the official implementation on generated text."""
    page = options.out / BENCHMARK_PAGE
    sandbox = options.model == "sandbox"
    arguments = ["--model", "random" if sandbox else options.model, *(["--lengths", "24", "20"] if sandbox else [])]
    arguments += ["--device", "cpu"] if options.device == "cpu" else ["--device", "cuda", "--dtype", "bfloat16"]
    arguments += ["--responses", "8", "--rounds", str(options.rounds), "--variants", "ours", "--markdown", str(page)]
    return Stage(f"bench {name}", str(Path(__file__).with_name(f"bench_{name}.py")), arguments, page)


def source_of(name: str, data: str | None) -> list[str]:
    """Overrides for the problems: from the hub, or from a file in the folder `data`."""
    if data is None:
        return [f"problems={name}"]
    path = file_of({"math": "math_train", "math500": "math500"}[name], data)
    return ["problems=file", f"problems.name={path}"]


def file_of(stem: str, data: str) -> Path:
    """The file `stem` in a folder, with one of the known extensions."""
    for ending in (".jsonl", ".jsonl.gz", ".parquet"):
        if (path := Path(data) / f"{stem}{ending}").is_file():
            return path
    sys.exit(f"run_on_gpu: --data {data} holds no {stem}.jsonl, {stem}.jsonl.gz or {stem}.parquet")


def gpu(device: str) -> str:
    """The GPU's name; empty if there is none."""
    return nvidia_smi("name", device)


def tokens(path: Path, tokenizer: Any, with_prompts: bool) -> int:
    """The number of tokens of all responses in a file, and of their prompts if `with_prompts`."""
    from implicit_prm.data.groups import load_groups

    total = 0
    for group in load_groups(str(path), graded=False):
        total += sum(map(len, tokenizer(group.completions, add_special_tokens=False)["input_ids"]))
        if with_prompts:
            turns = [{"content": group.prompt}] if isinstance(group.prompt, str) else group.prompt
            total += len(group) * len(tokenizer("".join(turn["content"] for turn in turns))["input_ids"])
    return total


def write_report(listed: list[Stage], options: argparse.Namespace) -> Path:
    """Write the report: time and memory of the stages, then the results of each loss."""
    # Imported here because it takes seconds, and options are checked first.
    from implicit_prm.models.loading import open_tokenizer
    from implicit_prm.models.source import ModelSource

    tokenizer = open_tokenizer(ModelSource.resolve(options.model))
    name = gpu(options.device) or "CPU"
    lines = [
        f"# {Path(options.model).name} on {name}",
        "",
        f"`{shlex.join(['python', 'scripts/run_on_gpu.py', *sys.argv[1:]])}`",
        "",
        ", ".join(f"{package} {version(package)}" for package in ("implicit-prm", "torch", "transformers")),
        "",
        "| stage | minutes | tokens | tokens/s | peak GPU memory, GB | peak host memory, GB |",
        "|---|---|---|---|---|---|",
    ]
    for stage in listed:
        record = stage.record
        rate = ["-", "-"]
        if stage.responses is not None:
            count = tokens(stage.responses, tokenizer, with_prompts=not stage.sampled)
            rate = [f"{count:,}", f"{count / record['seconds']:,.0f}"]
        gpu_gb = f"{record['gpu_gb']:.1f}" if record["gpu_gb"] else "-"
        cells = [stage.name, f"{record['seconds'] / 60:.1f}", *rate, gpu_gb, f"{record['host_gb']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Tokens: of all responses, each counted once, before any is dropped; with their prompts in training and "
        "scoring. Time: of the whole command, including its start. GPU memory: of the whole GPU, from nvidia-smi.",
    ]
    for loss in LOSSES:
        lines += ["", *results(loss, options.out / loss)]
    if options.rounds:
        _, benchmarks = (options.out / BENCHMARK_PAGE).read_text(encoding="utf-8").split("\n", 1)  # without its heading
        lines += ["", "## Benchmarks", "", benchmarks.strip()]
    path = options.report / f"{slug(name)}-{slug(Path(options.model).name)}.md"
    with atomic_write(path) as stream:
        stream.write(("\n".join(lines) + "\n").encode())
    return path


def results(loss: str, folder: Path) -> list[str]:
    """The section of a loss: accuracies at the largest N with intervals, and differences from the majority vote."""
    metrics = json.loads((folder / "eval" / "metrics.json").read_text(encoding="utf-8"))
    trained = json.loads((folder / "train_metrics.json").read_text(encoding="utf-8"))
    largest = str(metrics["sizes"][-1])
    # There is none if training was interrupted after its last step and then resumed.
    training_loss = f"Training loss {trained['train_loss']:.4f}. " if "train_loss" in trained else ""
    lines = [
        f"## {loss}: best of {largest} on {metrics['problems']} problems",
        "",
        f"{training_loss}Of {metrics['responses']} candidates, {metrics['cut_off_responses']} were cut off and "
        f"{metrics['unanswered_responses']} have no answer. Intervals: 95 %, bootstrap over problems.",
        "",
        "| selected by | accuracy, % | minus majority vote | within-problem AUROC |",
        "|---|---|---|---|",
    ]
    for name, row in metrics["accuracy"].items():
        difference = metrics["difference"].get(f"{name} - majority vote", {}).get(largest)
        auroc = metrics["within_problem_auroc"].get(name)
        cells = [
            interval(row[largest]),
            interval(difference, "+") if difference else "",
            decimals(auroc) if auroc else "",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    bench = folder / "processbench" / "metrics.json"
    return lines + (bench_results(json.loads(bench.read_text(encoding="utf-8"))) if bench.exists() else [])


def bench_results(metrics: dict[str, Any]) -> list[str]:
    """The table of ProcessBench: both accuracies and F1 per subset."""
    keys = ("accuracy_erroneous", "accuracy_correct", "f1")
    lines = [
        "",
        "| ProcessBench, cross-fitted | accuracy on erroneous, % | accuracy on correct, % | F1 |",
        "|---|---|---|---|",
    ]
    for name, row in metrics["subsets"].items():
        found = row["results"][metrics["values"]]
        cells = [interval(found[key]) if found[key]["value"] is not None else "-" for key in keys]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def interval(found: dict[str, float], sign: str = "") -> str:
    """A value with its interval, in per cent."""
    return f"{found['value'] * 100:{sign}.1f} [{found['low'] * 100:.1f}, {found['high'] * 100:.1f}]"


def slug(name: str) -> str:
    """The name in a form that suits a file name."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def main() -> None:
    options = parse()
    listed = stages(options)
    deadline = time.monotonic() + options.call_minutes * 60
    for stage in listed:
        left = (deadline - time.monotonic()) / 60
        read_record(stage, options.out)
        if not stage.done and left < 1:
            sys.exit(f"run_on_gpu: reached --call-minutes before stage {stage.name}; the same command resumes")
        run_stage(stage, options.out, min(options.minutes, left), options.device)
    print(f"report: {write_report(listed, options)}")


if __name__ == "__main__":
    main()
