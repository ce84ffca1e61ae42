"""The whole road on one GPU, in stages that are bounded in time and can be repeated: sample, train, measure, report.

    python scripts/run_on_gpu.py --model Qwen/Qwen2.5-1.5B-Instruct                  # MATH and MATH-500 from the hub
    python scripts/run_on_gpu.py --model FOLDER --data FOLDER                        # both from files
    python scripts/run_on_gpu.py --model FOLDER --rollouts FILE --candidates FILE    # graded responses that are there
    python scripts/run_on_gpu.py --model sandbox --device cpu --problems 40 --test-problems 20    # minutes, no GPU

Every stage is one command of this package in a process of its own. One that is done is skipped, one that was cut off
goes on where it was, so the same line repeats until all is done. Figures, intervals, tokens per second and peak memory
go to docs/results/<GPU>-<model>.md. What follows `--` is an override for `ipr-train`:

    python scripts/run_on_gpu.py --model Qwen/Qwen2.5-1.5B-Instruct -- model.lora=null trainer.learning_rate=1e-6
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from implicit_prm.utils.io import atomic_write, write_json

LOSSES = ("ce", "dpo")
BENCH = ["gsm8k", "math"]
GRACE_SECONDS = 120  # for a command that was interrupted to write what it has


@dataclass
class Stage:
    """One command, and the file that is there when it is done. `counts`: the file whose tokens it makes or passes."""

    name: str
    what: str
    module: str
    overrides: list[str]
    result: Path
    counts: Path | None
    generates: bool = False
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", f"implicit_prm.cli.{self.module}", *self.overrides]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Qwen/Qwen2.5-1.5B-Instruct", help="hub id, local folder, or sandbox")
    parser.add_argument("--data", help="folder with math_train and math500 (.jsonl, .jsonl.gz or .parquet)")
    parser.add_argument("--rollouts", type=Path, help="graded responses to train on, instead of sampling them")
    parser.add_argument("--candidates", type=Path, help="responses to rerank, instead of sampling them")
    parser.add_argument("--problems", type=int, default=1000, help="MATH train problems to sample for")
    parser.add_argument("--responses", type=int, default=8, help="of each")
    parser.add_argument("--test-problems", type=int, default=500, help="of MATH-500")
    parser.add_argument("--test-responses", type=int, default=16, help="of each: N of best-of-N")
    parser.add_argument(
        "--bench-problems", type=int, default=400, help="of each ProcessBench subset, 20 or more; 0: none"
    )
    parser.add_argument("--max-new-tokens", type=int, default=1024)
    parser.add_argument("--score-dtype", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--minutes", type=float, default=60, help="limit of each stage")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--report", type=Path, default=Path("docs/results"), help="folder of the report")
    parser.add_argument("--device", default="cuda:0", help="cuda:K or cpu")
    parser.add_argument("overrides", nargs="*", help="for ipr-train")
    options = parser.parse_args()
    if not re.fullmatch(r"cpu|cuda:\d+", options.device):
        parser.error(f"--device {options.device}: give cpu or cuda:K")
    for name in ("rollouts", "candidates"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            parser.error(f"--{name} {path}: no such file")
    if options.device != "cpu" and not gpu(options.device):
        parser.error(f"--device {options.device}: nvidia-smi knows no such GPU; use --device cpu")
    return options


def stages(options: argparse.Namespace) -> list[Stage]:
    """All stages in order. Those whose file was given are left out."""
    out, sandbox = options.out, options.model == "sandbox"
    rollouts, candidates = options.rollouts or out / "train.jsonl", options.candidates or out / "candidates.jsonl"
    model = ["policy=sandbox"] if sandbox else ["policy=hub", f"policy.name={options.model}"]
    if options.device != "cpu" and not sandbox:
        model.append("policy.dtype=bfloat16")
    listed = []
    for name, path, source, split, problems, responses, given in (
        ("sample", rollouts, "math", "train", options.problems, options.responses, options.rollouts),
        (
            "candidates",
            candidates,
            "math500",
            "test",
            options.test_problems,
            options.test_responses,
            options.candidates,
        ),
    ):
        if given is not None:
            continue
        shape = [f"problems.limit={problems}", f"sampling.n={responses}"]
        if sandbox:
            chosen = ["problems=sandbox", f"problems.split={split}"]
        else:
            chosen = [*source_of(source, options.data), "sampling=default"]
            shape.append(f"sampling.max_new_tokens={options.max_new_tokens}")
        what = f"{problems} problems x {responses} responses"
        listed.append(Stage(name, what, "rollout", [*model, *chosen, *shape, f"output={path}"], path, path, True))
    for loss in LOSSES:
        folder = out / loss
        if sandbox:
            recipe = ["data.hold_out_prompts=0", "trainer.eval_strategy=no"]
        else:
            recipe = ["experiment=smollm2_135m_math", f"model.name={options.model}"]
        recipe += ["+trainer.use_cpu=true"] if options.device == "cpu" else ["trainer.bf16=true"]
        recipe += [f"loss={loss}", f"data.train={rollouts}", f"output_dir={folder}", "++trainer.save_strategy=steps"]
        recipe += ["++trainer.save_steps=20", "trainer.resume_from_checkpoint=true", *options.overrides]
        listed.append(Stage(f"train {loss}", loss, "train", recipe, folder / "train_metrics.json", rollouts))
    for loss in LOSSES:
        folder = out / loss / "eval"
        given = [f"checkpoint={out / loss}", f"candidates={candidates}", f"output_dir={folder}", "too_long=lowest"]
        given.append(f"dtype={options.score_dtype}")
        if sandbox:
            given.append("steps=newline")
        listed.append(Stage(f"rerank {loss}", loss, "eval", given, folder / "metrics.json", candidates))
    if options.bench_problems and not sandbox:  # the sandbox's tokenizer cannot read it
        listed += [process_bench(loss, options) for loss in LOSSES]
    return listed


def process_bench(loss: str, options: argparse.Namespace) -> Stage:
    """First wrong steps of GSM8K and MATH solutions, each threshold fitted on other problems than it is measured on."""
    checkpoint, folder = options.out / loss, options.out / loss / "processbench"
    subsets = BENCH if options.data is None else [str(file_of(f"processbench_{name}", options.data)) for name in BENCH]
    given = [f"checkpoint={checkpoint}", f"subsets=[{','.join(subsets)}]", f"max_problems={options.bench_problems}"]
    given += [f"output_dir={folder}", "too_long=wrong", f"dtype={options.score_dtype}"]
    return Stage(f"processbench {loss}", loss, "eval", ["task=processbench", *given], folder / "metrics.json", None)


def source_of(name: str, data: str | None) -> list[str]:
    """The problems from the hub, or from a file of the folder `data`."""
    if data is None:
        return [f"problems={name}"]
    path = file_of({"math": "math_train", "math500": "math500"}[name], data)
    return ["problems=file", f"problems.name={path}"]


def file_of(stem: str, data: str) -> Path:
    """The file of that name in a folder, whatever its ending."""
    for ending in (".jsonl", ".jsonl.gz", ".parquet"):
        if (path := Path(data) / f"{stem}{ending}").is_file():
            return path
    sys.exit(f"run_on_gpu: --data {data} holds no {stem}.jsonl, {stem}.jsonl.gz or {stem}.parquet")


def run(stage: Stage, options: argparse.Namespace) -> None:
    """Run a stage unless it is done; keep what it took, over all attempts, beside its results."""
    kept = options.out / "stages" / f"{stage.name.replace(' ', '_')}.json"
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    if before.get("done") and stage.result.exists():
        if before["command"] != stage.command[1:]:
            sys.exit(
                f"run_on_gpu: stage {stage.name} is done in {options.out} by another command:\n"
                f"  {shlex.join(before['command'])}\nGive another --out, or delete {kept} and its results"
            )
        print(f"== {stage.name}: done", flush=True)
        stage.record = before
        return
    typed = shlex.join(stage.command)
    print(f"== {stage.name}, at most {options.minutes:g} minutes\n   {typed}", flush=True)
    seconds, status, memory = bounded(stage.command, options)
    stage.record = {
        "command": stage.command[1:],
        "done": status == 0,
        "seconds": before.get("seconds", 0.0) + seconds,
        **{name: max(value, before.get(name, 0.0)) for name, value in memory.items()},
    }
    write_json(kept, stage.record)
    if status == -1:
        sys.exit(
            f"run_on_gpu: stage {stage.name} reached its limit of {options.minutes:g} minutes. What it did is kept; "
            "run the same line again to go on, with a larger --minutes if you like"
        )
    if status != 0:
        sys.exit(f"run_on_gpu: stage {stage.name} failed with status {status}. To repeat it alone:\n  {typed}")


def bounded(command: list[str], options: argparse.Namespace) -> tuple[float, int, dict[str, float]]:
    """Seconds, exit status (-1: cut off by the limit), and peak memory in GB of a command."""
    visible = "" if options.device == "cpu" else options.device.removeprefix("cuda:")
    start, peak = time.monotonic(), 0.0
    process = subprocess.Popen(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": visible})
    deadline, cut = start + options.minutes * 60, False
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)  # the child's own peak, which Popen does not tell
            if pid:
                break
            peak = max(peak, gpu_memory(options.device))
            if time.monotonic() > deadline:
                process.send_signal(signal.SIGKILL if cut else signal.SIGINT)
                deadline, cut = time.monotonic() + GRACE_SECONDS, True
            time.sleep(1)
    except KeyboardInterrupt:  # the child got it as well
        os.waitpid(process.pid, 0)
        sys.exit("run_on_gpu: interrupted; the same line goes on")
    process.returncode = os.waitstatus_to_exitcode(status)
    memory = {"host_gb": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9, "gpu_gb": peak}
    return time.monotonic() - start, -1 if cut else process.returncode, memory


def gpu(device: str) -> str:
    """The GPU's name; empty where there is none."""
    return _nvidia_smi("name", device)


def gpu_memory(device: str) -> float:
    """GB in use on the whole card."""
    used = _nvidia_smi("memory.used", device)
    return float(used.split()[0]) * 2**20 / 1e9 if used else 0.0


def _nvidia_smi(query: str, device: str) -> str:
    if device == "cpu":
        return ""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", f"--id={device.removeprefix('cuda:')}"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def tokens(path: Path, tokenizer: Any, generates: bool) -> int:
    """Tokens of all responses in a file of grouped rows; with their prompts, unless they were generated here."""
    from implicit_prm.data.groups import load_groups

    total = 0
    for group in load_groups(str(path), graded=False):
        total += sum(map(len, tokenizer(group.completions, add_special_tokens=False)["input_ids"]))
        if not generates:
            turns = [{"content": group.prompt}] if isinstance(group.prompt, str) else group.prompt
            total += len(group) * len(tokenizer("".join(turn["content"] for turn in turns))["input_ids"])
    return total


def write_report(listed: list[Stage], options: argparse.Namespace) -> Path:
    """The page: stages with their cost, then what the checkpoints are worth."""
    # Imported here, after the options are checked, since they take seconds.
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
        if stage.counts is not None:
            count = tokens(stage.counts, tokenizer, stage.generates)
            rate = [f"{count:,}", f"{count / record['seconds']:,.0f}"]
        gpu_gb = f"{record['gpu_gb']:.1f}" if record["gpu_gb"] else "-"
        cells = [stage.name, f"{record['seconds'] / 60:.1f}", *rate, gpu_gb, f"{record['host_gb']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Tokens are those of the responses, once: without prompts where they are sampled, with them where they are "
        "trained on or scored, before anything is left out. Time is that of the whole command, its start included; GPU "
        "memory is that of the whole card, from nvidia-smi.",
    ]
    for loss in LOSSES:
        lines += ["", *results(loss, options.out / loss)]
    path = options.report / f"{slug(name)}-{slug(Path(options.model).name)}.md"
    with atomic_write(path) as stream:
        stream.write(("\n".join(lines) + "\n").encode())
    return path


def results(loss: str, folder: Path) -> list[str]:
    """Accuracy of every way to choose, at the largest N, with intervals and the difference to the majority vote."""
    metrics = json.loads((folder / "eval" / "metrics.json").read_text(encoding="utf-8"))
    trained = json.loads((folder / "train_metrics.json").read_text(encoding="utf-8"))
    largest = str(metrics["sizes"][-1])
    lines = [
        f"## {loss}: best of {largest} on {metrics['problems']} problems",
        "",
        f"Training loss {trained['train_loss']:.4f}; of {metrics['responses']} candidates "
        f"{metrics['cut_off_responses']} were cut off, {metrics['unanswered_responses']} have no answer. Intervals are "
        "95 %, bootstrap over problems.",
        "",
        "| chosen by | accuracy, % | minus majority vote |",
        "|---|---|---|",
    ]
    for name, row in metrics["accuracy"].items():
        difference = metrics["difference"].get(f"{name} - majority vote", {}).get(largest)
        lines.append(f"| {name} | {interval(row[largest])} | {interval(difference, '+') if difference else ''} |")
    bench = folder / "processbench" / "metrics.json"
    return lines + (bench_results(json.loads(bench.read_text(encoding="utf-8"))) if bench.exists() else [])


def bench_results(metrics: dict[str, Any]) -> list[str]:
    """F1 and its two sides on each subset of ProcessBench."""
    keys = ("accuracy_erroneous", "accuracy_correct", "f1")
    lines = [
        "",
        "| ProcessBench, cross-fitted | finds the first error, % | passes a right one, % | F1 |",
        "|---|---|---|---|",
    ]
    for name, row in metrics["subsets"].items():
        found = row["results"][metrics["values"]]
        cells = [interval(found[key]) if found[key]["value"] is not None else "-" for key in keys]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def interval(found: dict[str, float], sign: str = "") -> str:
    return f"{found['value'] * 100:{sign}.1f} [{found['low'] * 100:.1f}, {found['high'] * 100:.1f}]"


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def main() -> None:
    options = parse()
    listed = stages(options)
    for stage in listed:
        run(stage, options)
    print(f"report: {write_report(listed, options)}")


if __name__ == "__main__":
    main()
