"""What every evaluation writes and prints at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from implicit_prm.config import ScorerConfig, from_mapping
from implicit_prm.utils.io import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

C = TypeVar("C", bound=ScorerConfig)
METRICS, REPORT = "metrics.json", "report.html"


def validated(config: C) -> C:
    """The config, checked like one from YAML: it may have been made in Python."""
    return from_mapping(type(config), asdict(config))


def write_results(
    folder: Path,
    metrics: Mapping[str, Any],
    figures: Mapping[str, Figure],
    write_report: Callable[[Path], None],
) -> None:
    """Write metrics.json, each figure under its file name, and report.html."""
    from implicit_prm.evaluation import figures as drawn  # matplotlib

    write_json(folder / METRICS, metrics)
    for name, figure in figures.items():
        drawn.save(figure, folder / name)
    write_report(folder / REPORT)


def print_files(folder: str, files: Mapping[str, str]) -> None:
    """Where each result is, one line per file, aligned."""
    width = max(map(len, files)) + 1
    for what, name in files.items():
        print(f"{what + ':':<{width}} {folder}/{name}")
