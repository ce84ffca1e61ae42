"""`ipr-serve`: score responses over HTTP."""

from __future__ import annotations

from omegaconf import DictConfig

from implicit_prm.cli.command import command, run
from implicit_prm.config import ServeConfig
from implicit_prm.types import ImplicitPRMError


def _serve(config: ServeConfig) -> None:
    try:
        from implicit_prm.serving.run import serve  # after the options are checked, as it imports torch
    except ImportError as error:
        raise ImplicitPRMError(f"ipr-serve needs FastAPI ({error}); pip install 'implicit-prm[serve]'") from error

    serve(config)


@command("serve")
def main(tree: DictConfig) -> None:
    run("ipr-serve", ServeConfig, tree, _serve)


if __name__ == "__main__":
    main()
