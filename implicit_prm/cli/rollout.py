"""`ipr-rollout policy=... problems=... sampling.n=8`: sample responses, grade them, write grouped JSON lines."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from implicit_prm.cli.command import configs, run
from implicit_prm.config import RolloutConfig


def _rollout(config: RolloutConfig) -> None:
    from implicit_prm.rollouts.run import rollout

    rollout(config)


@hydra.main(version_base="1.3", config_path=configs(), config_name="rollout")
def main(tree: DictConfig) -> None:
    run("ipr-rollout", RolloutConfig, tree, _rollout)


if __name__ == "__main__":
    main()
