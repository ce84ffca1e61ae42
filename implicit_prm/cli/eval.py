"""`ipr-eval`: evaluate step scores by best-of-N, on benchmarks with step labels, or under rewrites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from implicit_prm.cli.command import command, run
from implicit_prm.config import (
    BestOfNConfig,
    Hard2VerifyConfig,
    PRMBenchConfig,
    ProcessBenchConfig,
    ShiftConfig,
    StepBenchmarkConfig,
)


def _best_of_n(config: BestOfNConfig) -> None:
    from implicit_prm.evaluation.best_of_n import report
    from implicit_prm.evaluation.best_of_n.run import run_best_of_n

    _show(report, run_best_of_n(config), config.folder)


def _process_bench(config: ProcessBenchConfig) -> None:
    from implicit_prm.evaluation.process_bench import report
    from implicit_prm.evaluation.process_bench.run import run_process_bench

    _show(report, run_process_bench(config), config.folder)


def _shift(config: ShiftConfig) -> None:
    from implicit_prm.evaluation.shift import report
    from implicit_prm.evaluation.shift.run import run_shift

    _show(report, run_shift(config), config.folder)


def _step_benchmark(config: StepBenchmarkConfig) -> None:
    from implicit_prm.evaluation.step_benchmarks import report
    from implicit_prm.evaluation.step_benchmarks.run import run_step_benchmark

    _show(report, run_step_benchmark(config), config.folder)


def _show(report: Any, metrics: dict[str, Any], folder: str) -> None:
    """Print the metrics as the task's `report` module does, and where the files are; in the first process only."""
    from implicit_prm.evaluation.results import print_files
    from implicit_prm.utils.distributed import is_first

    if is_first():
        report.print_metrics(metrics)
        print_files(folder, report.FILES)


# By the Hydra group `task`.
TASKS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "best_of_n": (BestOfNConfig, _best_of_n),
    "processbench": (ProcessBenchConfig, _process_bench),
    "shift": (ShiftConfig, _shift),
    "prmbench": (PRMBenchConfig, _step_benchmark),
    "hard2verify": (Hard2VerifyConfig, _step_benchmark),
}


@command("eval")
def main(tree: DictConfig) -> None:
    options, function = TASKS[tree.task]
    run("ipr-eval", options, tree, function)


if __name__ == "__main__":
    main()
