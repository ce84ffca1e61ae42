"""`ipr-search`: search for responses with a guide, grade them, and write candidates for `ipr-eval`."""

from __future__ import annotations

from omegaconf import DictConfig

from implicit_prm.cli.command import command, run
from implicit_prm.config import SearchConfig


def _search(config: SearchConfig) -> None:
    from implicit_prm.search.run import search_responses

    search_responses(config)


@command("search")
def main(tree: DictConfig) -> None:
    run("ipr-search", SearchConfig, tree, _search)


if __name__ == "__main__":
    main()
