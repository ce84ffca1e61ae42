"""`ipr-eval [task=best_of_n|processbench] checkpoint=...`: measure what a checkpoint's step scores are worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hydra
from omegaconf import DictConfig

from implicit_prm.cli.command import configs, run
from implicit_prm.config import BestOfNConfig, ProcessBenchConfig


def _best_of_n(config: BestOfNConfig) -> None:
    from implicit_prm.evaluation.best_of_n.report import print_metrics
    from implicit_prm.evaluation.best_of_n.run import evaluate
    from implicit_prm.utils.distributed import is_first

    metrics = evaluate(config)
    if not is_first():
        return
    print_metrics(metrics)
    print(f"metrics: {config.folder}/metrics.json")
    print(f"scores:  {config.folder}/scores.parquet")
    print(f"figure:  {config.folder}/accuracy.png")
    print(f"report:  {config.folder}/report.html")


def _process_bench(config: ProcessBenchConfig) -> None:
    from implicit_prm.evaluation.process_bench.report import print_metrics
    from implicit_prm.evaluation.process_bench.run import evaluate
    from implicit_prm.utils.distributed import is_first

    metrics = evaluate(config)
    if not is_first():
        return
    print_metrics(metrics)
    print(f"metrics:     {config.folder}/metrics.json")
    print(f"scores:      {config.folder}/SUBSET/scores.parquet")
    print(f"predictions: {config.folder}/SUBSET/predictions.jsonl")
    print(f"figure:      {config.folder}/trade_off.png")
    print(f"report:      {config.folder}/report.html")


# Chosen by the Hydra group `task`, whose files write their own name.
TASKS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "best_of_n": (BestOfNConfig, _best_of_n),
    "processbench": (ProcessBenchConfig, _process_bench),
}


@hydra.main(version_base="1.3", config_path=configs(), config_name="eval")
def main(tree: DictConfig) -> None:
    options, function = TASKS[tree.task]
    run("ipr-eval", options, tree, function)


if __name__ == "__main__":
    main()
