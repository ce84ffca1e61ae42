"""`ipr-rollout`: sample responses, grade them, and write one row per problem."""

from __future__ import annotations

from omegaconf import DictConfig

from implicit_prm.cli.command import command, run
from implicit_prm.config import RolloutConfig


def _rollout(config: RolloutConfig) -> None:
    from implicit_prm.rollouts.run import rollout

    rollout(config)


@command("rollout")
def main(tree: DictConfig) -> None:
    run("ipr-rollout", RolloutConfig, tree, _rollout)


if __name__ == "__main__":
    main()
