"""`ipr-merge`: merge a LoRA checkpoint into its base."""

from __future__ import annotations

from omegaconf import DictConfig

from implicit_prm.cli.command import command, run
from implicit_prm.config import MergeConfig


def _merge(config: MergeConfig) -> None:
    from implicit_prm.training.merge import merge

    print(f"merged: {merge(config)}")


@command("merge")
def main(tree: DictConfig) -> None:
    run("ipr-merge", MergeConfig, tree, _merge)


if __name__ == "__main__":
    main()
