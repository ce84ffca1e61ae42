"""`ipr-baseline kind=orm|value_head|next_token model=... data=... trainer=...`: train an explicit reward model."""

from __future__ import annotations

import shlex
import sys

import hydra
from omegaconf import DictConfig

from implicit_prm.cli.command import configs, run
from implicit_prm.config import BaselineConfig


def _baseline(config: BaselineConfig) -> None:
    from implicit_prm.baselines.run import fit  # behind the check of the options, which then fail at once

    fit(config, command=shlex.join(["ipr-baseline", *sys.argv[1:]]))
    print(f"checkpoint: {config.output_dir}")


@hydra.main(version_base="1.3", config_path=configs(), config_name="baseline")
def main(tree: DictConfig) -> None:
    run("ipr-baseline", BaselineConfig, tree, _baseline, go_on="trainer.resume_from_checkpoint=true")


if __name__ == "__main__":
    main()
