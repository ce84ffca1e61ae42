"""The commands that are disturbed, how each is resumed, and what of its output has to be equal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reliabilitylib.processes import Command

# Beside these a run writes times, paths and the state of checkpoints, which differ between equal runs.
_COMPARED = ("out.jsonl", "model.safetensors", "config.json", "implicit_prm.json", "metrics.json", "scores.parquet")
_TIMES = ("_runtime", "_per_second")


@dataclass(frozen=True)
class Case:
    """A command with its options. It writes `out` or `out.jsonl` in its working folder.

    Args:
        name: in the tables.
        line: the program and its options.
        compared: what a table says of the comparison.
        resume: options that are added to resume.
        parts: what the output consists of, as a pattern of files, and its name.
        at_once: the output appears as a whole, and the command refuses to write it again.
    """

    name: str
    line: tuple[str, ...]
    compared: str
    resume: tuple[str, ...] = ()
    parts: tuple[str, str] = ("out.jsonl", "rows")
    at_once: bool = False

    def progress(self, folder: Path) -> int:
        """Number of finished parts of the output: rows, or files."""
        pattern, _ = self.parts
        found = list(folder.glob(pattern))
        return found[0].read_bytes().count(b"\n") if found and found[0].suffix == ".jsonl" else len(found)


def cases(inputs: Path) -> list[Case]:
    """All commands, on the files that `prepare` makes."""
    train = ("ipr-train", f"data.train={inputs}/train.jsonl", "data.hold_out_prompts=6", "output_dir=out")
    every_3_steps = ("trainer.save_strategy=steps", "+trainer.save_steps=3", "trainer.save_total_limit=2")
    saved = ("out/checkpoint-*/trainer_state.json", "checkpoints")
    resume = ("trainer.resume_from_checkpoint=true",)
    label = ("ipr-label", "method=math_shepherd", f"input={inputs}/train.jsonl", "max_prompts=12", "sampling.n=2")
    evaluate = ("ipr-eval", f"checkpoint={inputs}/model", f"candidates={inputs}/test.jsonl", "vote_draws=50")
    return [
        Case(
            "ipr-rollout",
            ("ipr-rollout", "problems.limit=24", "sampling.n=3", "sampling.batch_size=2", "output=out.jsonl"),
            "file, byte for byte",
        ),
        Case(
            "ipr-train, epochs",
            (*train, "trainer.num_train_epochs=3", "trainer.save_total_limit=2"),
            "weights, byte for byte; every logged number",
            resume,
            saved,
        ),
        Case(
            "ipr-train, max_steps",
            (*train, "trainer.max_steps=16", "trainer.eval_strategy=no", "trainer.logging_steps=2", *every_3_steps),
            "weights, byte for byte; every logged number",
            resume,
            saved,
        ),
        Case(
            "ipr-eval",
            (*evaluate, "bootstrap_resamples=200", "output_dir=out"),
            "metrics and scores, byte for byte",
            parts=("out/parts-*/*.parquet", "problems scored"),
        ),
        Case("ipr-label", (*label, "problems_at_once=2", "output=out.jsonl"), "file, byte for byte"),
        Case(
            "ipr-merge",
            ("ipr-merge", f"checkpoint={inputs}/adapter", "output_dir=out"),
            "weights, byte for byte",
            parts=("out/implicit_prm.json", "merged"),
            at_once=True,
        ),
    ]


def prepare(inputs: Path) -> None:
    """Make the inputs of all commands: responses, a model and an adapter."""
    inputs.mkdir(parents=True)
    train = ("ipr-train", "data.train=train.jsonl", "data.hold_out_prompts=6", "trainer.max_steps=8")
    for line in (
        ("ipr-rollout", "problems.limit=24", "sampling.n=4", "output=train.jsonl"),
        ("ipr-rollout", "problems.split=test", "problems.limit=20", "sampling.n=4", "output=test.jsonl"),
        (*train, "output_dir=model"),
        (*train, "model.lora={r: 4}", "output_dir=adapter"),
    ):
        command = Command(line, inputs)
        if command.wait():
            raise RuntimeError(f"{' '.join(line)} failed:\n{command.output}")


def result(folder: Path) -> dict[str, object]:
    """What has to be equal of a finished run, and the names of all of its files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found: dict[str, object] = {path.name: path.read_bytes() for path in files if _is_result(path, folder)}
    log = folder / "out" / "log.jsonl"
    if log.exists():
        found["log.jsonl"] = [_without_times(json.loads(line)) for line in log.read_text().splitlines()]
    return found


def leftovers(folder: Path, whole: Path) -> list[str]:
    """Files that an uninterrupted run does not leave. Those of the reference cache have no fixed names."""
    names = [{str(p.relative_to(one)) for p in one.rglob("*") if p.is_file()} for one in (folder, whole)]
    return sorted(name for name in names[0] - names[1] if not name.startswith("cache/"))


def differing(folder: Path, whole: dict[str, object]) -> Sequence[str]:
    """Names of what is not equal to the uninterrupted run."""
    ours = result(folder)
    return [name for name in {**whole, **ours} if ours.get(name) != whole.get(name)]


def _is_result(path: Path, folder: Path) -> bool:
    return path.name in _COMPARED and path.parent in (folder, folder / "out")


def _without_times(row: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in row.items() if not key.endswith(_TIMES)}
