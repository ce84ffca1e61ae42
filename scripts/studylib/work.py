"""What a worker process does: compose the config of a command from its overrides, and call the command's function.

A command line per task would spend more time on starting Python than on the sandbox's models.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shlex
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from implicit_prm.baselines import run as baseline_fitting
from implicit_prm.baselines.labels.run import label
from implicit_prm.cli.command import configs
from implicit_prm.cli.label import METHODS
from implicit_prm.config import BaselineConfig, BestOfNConfig, RLConfig, RolloutConfig, TrainConfig, from_mapping
from implicit_prm.rollouts.run import rollout
from implicit_prm.training.run import fit
from implicit_prm.types import ImplicitPRMError
from studylib.measures import measure, measure_candidates, score

LOG = "output.log"


@dataclass(frozen=True)
class Command:
    """A command of the package.

    Args:
        program: its name on the command line.
        config: its YAML file.
        options: its dataclass; None if the Hydra group `method` decides.
        function: what it calls.
        output: the option for its output.
        file: the name of the output inside the task's folder; empty for the folder itself.
        trains: the function takes the command line too, which the model card quotes.
    """

    program: str
    config: str
    options: type | None
    function: Callable[..., Any]
    output: str = "output_dir"
    file: str = ""
    trains: bool = False


def _train_policy(config: RLConfig, command: str) -> None:
    from implicit_prm.rl.run import train_policy  # needs TRL, which only one of the studies does

    train_policy(config, command=command)


COMMANDS = {
    "rollout": Command("ipr-rollout", "rollout", RolloutConfig, rollout, "output", "/rows.jsonl"),
    "label": Command("ipr-label", "label", None, label, "output", "/rows.jsonl"),
    "train": Command("ipr-train", "train", TrainConfig, fit, trains=True),
    "rl": Command("ipr-rl", "rl", RLConfig, _train_policy, trains=True),
    "baseline": Command("ipr-baseline", "baseline", BaselineConfig, baseline_fitting.fit, trains=True),
    "score": Command("ipr-eval", "eval", BestOfNConfig, score),
    "measure": Command("ipr-eval", "eval", BestOfNConfig, measure),
    "candidates": Command("ipr-eval", "eval", BestOfNConfig, measure_candidates),
}


def start(threads: int) -> None:
    """Set up a worker: its number of threads, and a thread that ends it if the study's process is killed."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def do(name: str, overrides: Sequence[str], folder: Path) -> None:
    """Run a command, with its output in `output.log` in the task's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    command = COMMANDS[name]
    with _output_to(folder / LOG):
        try:
            config = options(command, overrides)
            if command.trains:
                command.function(config, command=shlex.join([command.program, *overrides]))
            else:
                command.function(config)
        except Exception as error:
            traceback.print_exc()
            if isinstance(error, ImplicitPRMError):
                raise
            raise ImplicitPRMError(f"{type(error).__name__}: {error}") from None  # not every exception can be pickled


def options(command: Command, overrides: Sequence[str]) -> Any:
    """The command's dataclass for these overrides."""
    with initialize_config_dir(configs(), version_base="1.3"):
        tree = compose(command.config, overrides=list(overrides))
    values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    return from_mapping(command.options or METHODS[tree.method], values)


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Redirect stdout and stderr to a file, also those of libraries outside Python."""
    kept = os.dup(1), os.dup(2)
    with path.open("w", encoding="utf-8") as stream:
        try:
            for descriptor in (1, 2):
                os.dup2(stream.fileno(), descriptor)
            yield
        finally:
            for descriptor, old in zip((1, 2), kept, strict=True):
                os.dup2(old, descriptor)
                os.close(old)
