"""`ipr-train`: train an implicit PRM on graded responses."""

from __future__ import annotations

import shlex
import sys

from omegaconf import DictConfig

from implicit_prm.cli.command import command, run
from implicit_prm.config import TrainConfig


def _train(config: TrainConfig) -> None:
    if config.estimate is not None:
        from implicit_prm.costs.estimates import estimate

        estimate(config)
        return
    from implicit_prm.training.run import fit  # after the options are checked, as it imports torch

    fit(config, command=shlex.join(["ipr-train", *sys.argv[1:]]))
    print(f"checkpoint: {config.output_dir}")


@command("train")
def main(tree: DictConfig) -> None:
    run("ipr-train", TrainConfig, tree, _train, resume="trainer.resume_from_checkpoint=true")


if __name__ == "__main__":
    main()
