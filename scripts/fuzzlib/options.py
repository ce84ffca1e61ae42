"""Options: mutated values for the dataclasses, and hostile command lines through the commands' own `main`."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from fuzzlib.values import mutated, text, value
from implicit_prm import config as options
from implicit_prm.cli.command import configs
from implicit_prm.cli.help import leaves
from implicit_prm.config import from_mapping
from implicit_prm.training.arguments import training_arguments
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.secrets import without_secrets

_TRAIN = {
    "model": {"name": "sandbox"},
    "data": {"train": "rows.jsonl"},
    "loss": {"name": "kto"},
    "output_dir": "out",
    "trainer": {"learning_rate": 1e-4, "max_steps": 3, "use_cpu": True, "eval_strategy": "no", "hub_token": "x"},
    "push_to_hub": "org/name",
}
_ROLLOUT = {
    "policy": {"kind": "server", "base_url": "http://localhost:8000/v1", "name": "m", "extra_body": {"top_k": 0}},
    "problems": {"name": "gsm8k", "split": "test", "limit": 3},
    "sampling": {"n": 2, "batch_size": None},
    "output": "rows.jsonl",
}
_VALID: tuple[tuple[type, dict[str, Any]], ...] = (
    (options.TrainConfig, _TRAIN),
    (options.TrainConfig, {**_TRAIN, "model": {"name": "m", "lora": {"r": 2, "alpha": 4}}, "estimate": {}}),
    (options.RolloutConfig, _ROLLOUT),
    (options.RolloutConfig, {**_ROLLOUT, "policy": {"name": "m"}, "sampling": {"n": 2}}),
    (options.BestOfNConfig, {"checkpoint": "out", "candidates": "rows.jsonl", "rollout": _ROLLOUT, "aggregate": "min"}),
    (options.ProcessBenchConfig, {"checkpoint": "out", "output_dir": "o"}),
    (options.ShiftConfig, {"checkpoint": "out", "candidates": "rows.jsonl", "rewrites": ["swap_operands"]}),
    (options.PRMBenchConfig, {"checkpoint": "out", "dataset": "rows.jsonl", "threshold": 0.5}),
    (options.BaselineConfig, {**_TRAIN, "model": {"name": "m"}, "kind": "orm", "loss": None}),
    (options.MergeConfig, {"checkpoint": "out", "output_dir": "merged"}),
    (options.ScoreConfig, {"input": "rows.jsonl", "checkpoint": "out", "output_dir": "o", "shard": "1/4"}),
    (
        options.SearchConfig,
        {**_ROLLOUT, "guide": {"checkpoint": "out"}, "algorithm": {"name": "beam", "branch": 2}, "aggregate": "min"},
    ),
    (options.CacheConfig, {"prune_older_than_days": 3}),
    (options.RLConfig, {"policy": {"name": "m"}, "problems": {"name": "gsm8k"}, "output_dir": "out", "grpo": {}}),
    (options.ServeConfig, {"checkpoint": "out", "port": 9000, "aggregate": "last", "over": "prefix"}),
    (options.TextConfig, {"steps": "newline", "template_kwargs": {"x": 1}}),
)
_COMMANDS = ("train", "rollout", "eval", "score", "label", "baseline", "merge", "cache", "rl", "search", "serve")


def open_values(folder: Path) -> Callable[[Random], None]:
    """Mutated options in a dataclass, and those of training in transformers' TrainingArguments."""

    def case(rng: Random) -> None:
        cls, valid = rng.choice(_VALID)
        values = mutated({key: one for key, one in valid.items() if one is not None}, rng)
        if not isinstance(values, dict):
            return
        config = from_mapping(cls, values)
        without_secrets(asdict(config))
        if isinstance(config, options.TrainConfig):
            config.output_dir = str(folder / "out")
            training_arguments(config)

    return case


def open_command_lines(folder: Path) -> Callable[[Random], None]:
    """Hostile arguments through Hydra and the checks of a command, up to where its work would begin."""
    from hydra import compose, initialize_config_dir

    known: dict[str, list[tuple[str, str]]] = {}
    for name in _COMMANDS:
        with initialize_config_dir(configs(), version_base="1.3"):
            known[name] = list(leaves(compose(name)))

    def case(rng: Random) -> None:
        command = rng.choice(_COMMANDS)
        arguments = [_argument(known[command], rng) for _ in range(rng.randrange(1, 4))]
        if rng.random() < 0.05:
            arguments.append("--help")
        module = import_module(f"implicit_prm.cli.{command}")
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            stack.enter_context(mock.patch.object(sys, "argv", [f"ipr-{command}", *arguments]))
            stack.enter_context(mock.patch.object(module, "run", _only_checked))
            _call(module.main)

    return case


def _argument(known: list[tuple[str, str]], rng: Random) -> str:
    """NAME=VALUE with a real name, a misspelt one or none; without NUL and surrogates, which no shell passes."""
    name, own = rng.choice(known) if rng.random() < 0.8 else (text(rng, 3), "1")
    if rng.random() < 0.2:
        place = rng.randrange(len(name) + 1)
        name = name[:place] + rng.choice(("", ".", "x", "_", "=")) + name[place + 1 :]
    hostile = (text(rng, 6), str(value(rng)), "null", "[1,2", "{a:1}", '"x"', "${x}", "1e400", "-1", ".nan")
    written = own if rng.random() < 0.3 else rng.choice(hostile)[:2000]
    argument = rng.choice(("", "", "", "+", "++", "~")) + name + rng.choice(("=", "=", "=", "", "@", ":=")) + written
    return argument.replace("\0", "").encode("utf-8", "replace").decode()


def _only_checked(name: str, cls: type, tree: Any, function: Any, resume: str = "") -> None:
    """`implicit_prm.cli.command.run` with a function that does nothing."""
    from implicit_prm.cli.command import run

    run(name, cls, tree, lambda config: None, resume)


def _call(main: Callable[[], None]) -> None:
    try:
        main()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            raise ImplicitPRMError(stop.code) from None
