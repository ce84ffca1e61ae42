"""`--help` of every command: what it does, examples, its groups and options, all read from its YAML files."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from implicit_prm.utils.secrets import hide_argument

_KEY = re.compile(r"( *)([\w/]+):( .*)?$")


def help_text(folder: Path, command: str, overrides: Sequence[str]) -> str:
    """The help of a command whose options are composed with `overrides`.

    Args:
        folder: Folder of the YAML files.
        command: Name of the command's YAML file.
        overrides: Arguments of the command line, such as `loss=dpo`.
    """
    with initialize_config_dir(str(folder), version_base="1.3"):
        tree = compose(command, list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(tree)  # resolves the ${hydra:...} of output folders
    choices = {key: value for key, value in tree.hydra.runtime.choices.items() if not key.startswith("hydra/")}
    title, *examples = header(folder / f"{command}.yaml")
    comments = option_comments(folder, command, choices)
    width = min(shutil.get_terminal_size().columns, 120)
    lines = [title, "", "Examples:", *examples, ""]
    groups = [(group, choice) for group, choice in reversed(choices.items()) if "@" not in group and group != "tuned"]
    if groups:
        lines.append("Groups, chosen with GROUP=NAME (* is chosen now):")
        for group, choice in groups:
            names = sorted(path.stem for path in (folder / group).glob("*.yaml"))
            listed = ", ".join(f"{name}*" if name == choice else name for name in names)
            lines += _columns(f"  {group}", listed, width)
        lines.append("")
    lines.append("Options, set with NAME=VALUE:")
    for name, value in leaves(tree):
        lines += _columns(f"  {hide_argument(f'{name}={value}')}", comments.get(name, ""), width)
    lines += ["", f"All comments: {folder}", "More flags, such as --cfg job (print the options): --hydra-help"]
    return "\n".join(lines)


def header(path: Path) -> list[str]:
    """The comment at the top of a YAML file: its first sentence, and its examples, each indented."""
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line[1:])
    examples = [line for line in comment if line.startswith("   ")]
    return [" ".join(line.strip() for line in comment if line not in examples), *examples]


def option_comments(folder: Path, command: str, choices: dict[str, Any]) -> dict[str, str]:
    """{dotted option name: first sentence of its comment}, from the YAML files that are composed."""
    found: dict[str, str] = {}
    for key, choice in choices.items():
        group, _, package = key.partition("@")
        path = folder / group / f"{choice}.yaml"
        if choice is not None and path.exists():
            found |= file_comments(path, package or group)
    return {**file_comments(folder / f"{command}.yaml", ""), **found}


def file_comments(path: Path, package: str) -> dict[str, str]:
    """The same of one file. Keys without a blank line or a comment between them share the comment of the first."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if lines[0] == "# @package _global_":
        lines, package = lines[1:], ""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    comment: list[str] = []
    commented = False
    for line in lines:
        key = _KEY.match(line)
        if line.strip().startswith("#"):
            comment = [*([] if commented else comment), line.strip()[1:]]
            commented = False
        elif not line.strip():
            comment = []
        elif key:
            indent, name = len(key[1]), key[2]
            parents = [parent for parent in parents if parent[0] < indent]
            dotted = ".".join([*([package] if package else []), *(parent[1] for parent in parents), name])
            parents.append((indent, name))
            commented = True
            found[dotted] = _first_sentence(comment)
    return found


def leaves(tree: DictConfig, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every option's dotted name and value, as the command line takes it."""
    for key in tree:
        name = prefix + str(key)
        if name == "hydra":
            continue
        try:
            value = "???" if OmegaConf.is_missing(tree, key) else tree[key]
        except OmegaConfBaseException:  # it refers to an option that is missing
            value = OmegaConf.to_container(tree, resolve=False)[key]  # type: ignore[index]
        if isinstance(value, DictConfig) and value:
            yield from leaves(value, f"{name}.")
        else:
            yield name, _written(value)


def _written(value: Any) -> str:
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if value == "" or "\n" in str(value) else str(value)


def _first_sentence(comment: Sequence[str]) -> str:
    text = " ".join(line.strip() for line in comment if not line.startswith("   "))
    return re.split(r"(?<=[.;])\s+(?=[A-Z`(]|\d)", text, maxsplit=1)[0] if text else ""


def _columns(left: str, right: str, width: int, indent: int = 44) -> list[str]:
    """`left`, and `right` beside it if there is room, else below."""
    wrapped = textwrap.wrap(right, max(width - indent, 30))
    first = [left.ljust(indent) + wrapped.pop(0)] if wrapped and len(left) < indent - 1 else [left]
    return [*first, *(" " * indent + line for line in wrapped)]
