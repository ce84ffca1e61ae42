"""`ipr-eval checkpoint=... candidates=...`: rerank best-of-N candidates and measure what it is worth."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from implicit_prm.cli.command import configs, run
from implicit_prm.config import EvalConfig


def _evaluate(config: EvalConfig) -> None:
    from implicit_prm.evaluation.best_of_n import evaluate
    from implicit_prm.evaluation.report import print_metrics
    from implicit_prm.processes import is_first

    metrics = evaluate(config)
    if not is_first():
        return
    print_metrics(metrics)
    print(f"metrics: {config.folder}/metrics.json")
    print(f"scores:  {config.folder}/scores.parquet")
    print(f"figure:  {config.folder}/accuracy.png")


@hydra.main(version_base="1.3", config_path=configs(), config_name="eval")
def main(tree: DictConfig) -> None:
    run("ipr-eval", EvalConfig, tree, _evaluate)


if __name__ == "__main__":
    main()
