"""What the three commands share: finding the YAML files, Hydra's tree to a dataclass, errors to sentences."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from implicit_prm.config import from_mapping
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.progress import disable_bars_in_logs

T = TypeVar("T")


def configs() -> str:
    """The folder of YAML files: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return str(inside if inside.is_dir() else package.parent / "configs")


def run(name: str, cls: type[T], tree: DictConfig, function: Callable[[T], Any], go_on: str = "") -> None:
    """Build `cls` from Hydra's tree and call `function`.

    A mistake in options or input ends the process with one sentence and status 1, an interruption with status 130 and
    what to add to the command to go on (`go_on`). Everything that was written before either is whole.
    """
    disable_bars_in_logs()
    # Reading a file is not what a run's progress is about.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        try:
            values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            key = f" ({error.full_key})" if error.full_key else ""
            raise ImplicitPRMError(str(error).split("\n")[0] + key) from error
        function(from_mapping(cls, values))  # type: ignore[arg-type]
    except ImplicitPRMError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"{name}: error: {error}")
    except KeyboardInterrupt:
        how = f"with {go_on} added, goes on from the last checkpoint" if go_on else "goes on from there"
        print(f"\n{name}: interrupted; what was done is kept, and the same command {how}", file=sys.stderr)
        sys.exit(130)
