"""`ipr-baseline`: train an explicit reward model."""

from __future__ import annotations

import shlex
import sys

from omegaconf import DictConfig

from implicit_prm.cli.command import command, run
from implicit_prm.config import BaselineConfig


def _baseline(config: BaselineConfig) -> None:
    from implicit_prm.baselines.run import fit  # after the options are checked, as it imports torch

    fit(config, command=shlex.join(["ipr-baseline", *sys.argv[1:]]))
    print(f"checkpoint: {config.output_dir}")


@command("baseline")
def main(tree: DictConfig) -> None:
    run("ipr-baseline", BaselineConfig, tree, _baseline, resume="trainer.resume_from_checkpoint=true")


if __name__ == "__main__":
    main()
