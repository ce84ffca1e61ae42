"""report.html of a run of PRMBench or Hard2Verify: its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from implicit_prm.evaluation.html.render import write_page
from implicit_prm.evaluation.step_benchmarks.report import notes


def write(path: Path, metrics: dict[str, Any]) -> None:
    """Write the page, atomically; `metrics` as metrics.json holds them."""
    write_page(path, "step_benchmark.html", metrics=metrics, notes=notes(metrics))
