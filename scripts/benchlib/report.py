"""Measurements to a table on the terminal, a JSON file, and a section of docs/performance.md."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchlib.cost import Cost
from benchlib.measure import Rounds
from implicit_prm.utils.io import atomic_write, write_json

_PACKAGES = ("torch", "transformers", "trl", "liger-kernel", "implicit-prm")


@dataclass
class Variant:
    """One implementation of the work.

    Args:
        work: does it once and returns what is compared: scores, or a loss whose gradient is left in the policy.
        cost: FLOPs and tokens that it executes.
        useful: FLOPs that the result needs at least: each prompt once, no padding, logits at response tokens only.
        finish: runs after the work and is timed with it (the optimiser step).
        agreement: the errors that the check before the timing found.
    """

    work: Callable[[], Any]
    cost: Cost
    useful: float
    finish: Callable[[], None] = lambda: None
    agreement: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Run the timed part."""
        self.work()
        self.finish()


@dataclass
class Row:
    """A row of the table. Figures are medians over rounds.

    Args:
        speedup: over the first variant: median, smallest, largest.
        predicted: the speed-up that the FLOPs predict.
        peak_bytes: None if not measured.
        memory_ratio: of peak memory to the first variant's.
        useful_share: rate of the least FLOPs that the result needs, relative to the machine's matrix product.
        executed_share: the same for all FLOPs that the variant executes.
    """

    name: str
    seconds: float
    cpu_seconds: float
    speedup: tuple[float, float, float] | None
    predicted: float
    peak_bytes: int | None
    memory_ratio: float | None
    response_tokens_per_second: float
    processed_tokens_per_second: float
    useful_share: float
    executed_share: float
    agreement: dict[str, float]


def summarise(variants: Mapping[str, Variant], rounds: Rounds, response_tokens: int) -> list[Row]:
    """One row per measured variant, compared with the first one."""
    base = next(iter(variants))
    rows = []
    for name, variant in variants.items():
        found = rounds.of(name)
        if not found:
            continue
        seconds = median(one.seconds for one in found)
        ratios = rounds.ratios(name, base)
        peak, base_peak = (_median([one.peak_bytes for one in rounds.of(which)]) for which in (name, base))
        rows.append(
            Row(
                name=name,
                seconds=seconds,
                cpu_seconds=median(one.cpu_seconds for one in found),
                speedup=(median(ratios), min(ratios), max(ratios)) if ratios else None,
                predicted=variants[base].cost.flops / variant.cost.flops,
                peak_bytes=peak,
                memory_ratio=peak / base_peak if peak is not None and base_peak else None,
                response_tokens_per_second=response_tokens / seconds,
                processed_tokens_per_second=variant.cost.tokens / seconds,
                useful_share=variant.useful / seconds / rounds.matmul,
                executed_share=variant.cost.flops / seconds / rounds.matmul,
                agreement=variant.agreement,
            )
        )
    return rows


def _median(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return round(median(known)) if known else None


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "variant": lambda row: row.name,
    "seconds": lambda row: f"{row.seconds:.2f}",
    "speed-up [range]": lambda row: _ratio(row),
    "FLOP model": lambda row: f"{row.predicted:.2f}",
    "CPU s": lambda row: f"{row.cpu_seconds:.2f}",
    "peak MB (ratio)": lambda row: _peak(row),
    "response tok/s": lambda row: f"{row.response_tokens_per_second:.0f}",
    "processed tok/s": lambda row: f"{row.processed_tokens_per_second:.0f}",
    "useful": lambda row: f"{row.useful_share:.0%}",
    "executed": lambda row: f"{row.executed_share:.0%}",
}
LEGEND = (
    "Medians over the rounds. Speed-up: in wall time over the first row, per round, with [smallest, largest]; FLOP "
    "model: the speed-up that the FLOPs predict. Peak MB: above what the process held before (models, optimiser), with "
    "the ratio to the first row. Useful and executed: FLOP/s relative to a large matrix product, counting the least "
    "FLOPs that the result needs, and all FLOPs that the variant executes. The optimiser is in the time, not in the "
    "FLOPs."
)


def _ratio(row: Row) -> str:
    return "-" if row.speedup is None else "{:.2f} [{:.2f}, {:.2f}]".format(*row.speedup)


def _peak(row: Row) -> str:
    if row.peak_bytes is None:
        return "not measured"
    return f"{row.peak_bytes / 1e6:.0f}" + (f" ({row.memory_ratio:.2f})" if row.memory_ratio is not None else "")


def _columns(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """All columns, and one for each error that was checked."""
    checks = dict.fromkeys(name for row in rows for name in row.agreement)
    return _COLUMNS | {name: partial(_agreement, name=name) for name in checks}


def _agreement(row: Row, name: str) -> str:
    return f"{row.agreement[name]:.1e}" if name in row.agreement else "-"


@dataclass
class Report:
    """The results of one case. `title` names the case and its section in a Markdown file."""

    title: str
    case: dict[str, Any]
    rows: list[Row]
    rounds: Rounds
    left_out: dict[str, str] = field(default_factory=dict)
    profiles: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def show(self, console: Console) -> None:
        """The table on the terminal."""
        done = len(self.rounds.measurements)
        table = Table(
            title=f"{done} rounds{', interrupted' if self.rounds.interrupted else ''}",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        for name in _columns(self.rows):
            whole = name in ("variant", "speed-up [range]", "peak MB (ratio)")  # other columns may wrap
            table.add_column(Text(name), justify="left" if name == "variant" else "right", no_wrap=whole)
        for row in self.rows:
            table.add_row(*(Text(read(row)) for read in _columns(self.rows).values()))
        console.print(table)
        product = f"A large matrix product: {self.rounds.matmul / 1e9:.0f} GFLOP/s."
        notes = [f"{product} {LEGEND}", *(f"Left out: {name}: {reason}" for name, reason in self.left_out.items())]
        notes += [f"{name}: {value}" for name, value in self.extra.items()]
        notes += [f"\nProfile of '{name}'\n{text}" for name, text in self.profiles.items()]
        console.print("\n".join(notes), highlight=False, markup=False)

    def as_json(self) -> dict[str, Any]:
        rounds = [{name: asdict(one) for name, one in found.items()} for found in self.rounds.measurements]
        return {
            "title": self.title,
            "case": self.case,
            "machine": machine(),
            "command": command(),
            "interrupted": self.rounds.interrupted,
            "matmul_flops": self.rounds.matmul_flops,
            "rows": [asdict(row) for row in self.rows],
            "rounds": rounds,
            "left_out": self.left_out,
            "profiles": self.profiles,
            **self.extra,
        }

    def as_markdown(self) -> str:
        """The section without its heading."""
        columns = _columns(self.rows)
        lines = [
            f"{describe_machine()} {len(self.rounds.measurements)} rounds; a large matrix product ran at "
            f"{self.rounds.matmul / 1e9:.0f} GFLOP/s.",
            "",
            f"```bash\n{command()}\n```",
            "",
            "| " + " | ".join(columns) + " |",
            "|---" + "|---:" * (len(columns) - 1) + "|",
            *("| " + " | ".join(read(row) for read in columns.values()) + " |" for row in self.rows),
            "",
            *(f"* Left out: {name}: {reason}." for name, reason in self.left_out.items()),
            *(f"* {name}: {value}" for name, value in self.extra.items()),
            "",
        ]
        for name, text in self.profiles.items():
            lines += [f"<details><summary>Profile of <i>{name}</i></summary>", ""]
            lines += [f"```\n{text}\n```", "", "</details>", ""]
        return "\n".join(lines).rstrip() + "\n"


def write(reports: Sequence[Report], json_path: Path | None, markdown_path: Path | None) -> None:
    """Write the requested files. An interrupted case does not change its section of the Markdown file."""
    if json_path is not None and reports:
        write_json(json_path, [report.as_json() for report in reports])
    whole = [report for report in reports if not report.rounds.interrupted]
    if markdown_path is None or not whole:
        return
    exists = markdown_path.exists()
    text = markdown_path.read_text(encoding="utf-8") if exists else f"# Performance\n\n{LEGEND}\n"
    for report in whole:
        text = with_section(text, report.title, report.as_markdown())
    with atomic_write(markdown_path) as stream:
        stream.write(text.encode())


def with_section(text: str, title: str, body: str) -> str:
    """`text` with the section `title` replaced, or appended. Other sections do not change."""
    section = f"## {title}\n\n{body}"
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: f"{section}\n", text, count=1).rstrip() + "\n"
    return f"{text.rstrip()}\n\n{section}"


def machine() -> dict[str, Any]:
    """The machine and the versions that the figures depend on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "environment": {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "MKL_"))},
    }


def describe_machine() -> str:
    """The machine and versions in one sentence."""
    found = machine()
    on = f"{found['gpu']}; " if found["gpu"] else ""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return f"{on}{found['cpu']}, {found['cores']} cores, {found['threads']} threads; {versions}."


def command() -> str:
    """The command line, as typed in the root of the repository."""
    script, *arguments = sys.argv
    return shlex.join(["python", f"scripts/{Path(script).name}", *arguments])


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE)):
        return found[1]
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
