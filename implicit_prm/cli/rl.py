"""`ipr-rl`: train a policy with reinforcement learning and process rewards."""

from __future__ import annotations

import shlex
import sys

from omegaconf import DictConfig

from implicit_prm.cli.command import command, run
from implicit_prm.config import RLConfig
from implicit_prm.types import ImplicitPRMError


def _train(config: RLConfig) -> None:
    try:
        from implicit_prm.rl.run import train_policy  # after the options are checked, as it imports torch
    except ImportError as error:
        raise ImplicitPRMError(f"ipr-rl needs TRL ({error}); pip install 'implicit-prm[rl]'") from error

    train_policy(config, command=shlex.join(["ipr-rl", *sys.argv[1:]]))
    print(f"policy: {config.output_dir}")


@command("rl")
def main(tree: DictConfig) -> None:
    run("ipr-rl", RLConfig, tree, _train, resume="grpo.resume_from_checkpoint=true")


if __name__ == "__main__":
    main()
