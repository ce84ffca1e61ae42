"""`ipr-score`: score the responses of a file or dataset of any size, in shards."""

from __future__ import annotations

from omegaconf import DictConfig

from implicit_prm.cli.command import command, run
from implicit_prm.config import ScoreConfig


def _score(config: ScoreConfig) -> None:
    from implicit_prm.evaluation.score_file import score_file

    score_file(config)


@command("score")
def main(tree: DictConfig) -> None:
    run("ipr-score", ScoreConfig, tree, _score)


if __name__ == "__main__":
    main()
