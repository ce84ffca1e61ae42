"""`ipr-train loss=dpo|kto|nca|ce|prefix|steps model=... data=... trainer=...`: fit an implicit PRM to responses."""

from __future__ import annotations

import shlex
import sys

import hydra
from omegaconf import DictConfig

from implicit_prm.cli.command import configs, run
from implicit_prm.config import TrainConfig


def _train(config: TrainConfig) -> None:
    if config.estimate is not None:
        from implicit_prm.costs.estimates import estimate

        estimate(config)
        return
    from implicit_prm.training.run import fit  # behind the check of the options, which then fail at once

    fit(config, command=shlex.join(["ipr-train", *sys.argv[1:]]))
    print(f"checkpoint: {config.output_dir}")


@hydra.main(version_base="1.3", config_path=configs(), config_name="train")
def main(tree: DictConfig) -> None:
    run("ipr-train", TrainConfig, tree, _train, go_on="trainer.resume_from_checkpoint=true")


if __name__ == "__main__":
    main()
