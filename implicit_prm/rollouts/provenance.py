"""How a file of rollouts or step labels was made, beside it in `<output>.meta.json`: what is fixed, and each run."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from implicit_prm.config import RolloutConfig, ServerConfig
from implicit_prm.types import ImplicitPRMError, Problem
from implicit_prm.utils.io import write_json

_PACKAGES = ("implicit-prm", "torch", "transformers", "openai", "math-verify")
# Where a server is, and how hard it is pressed, does not change what it answers.
_OF_A_RUN = ("base_url", "api_key_env", "concurrency", "timeout_s", "retries")


class Provenance:
    """The record of a file of rollouts, or of step labels.

    `settings` holds what every run must share: backend, model and its weights, sampling, prompt, problems' source.
    `runs` holds what may differ: the time, package versions, where the server was, how many problems.

    Raises:
        ImplicitPRMError: the record is there, but cannot be read.
    """

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(output.name + ".meta.json")
        self._output = output
        self._known: dict[str, Any] | None = None
        if self.path.exists():
            try:
                known = json.loads(self.path.read_text(encoding="utf-8"))
                self._known = {"settings": dict(known["settings"]), "runs": list(known["runs"])}
            except (ValueError, KeyError, TypeError):
                raise ImplicitPRMError(
                    f"{self.path} is not a record of rollouts or labels; restore it, or give another output"
                ) from None

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse to go on with a file that was made otherwise; what `settings` leaves out is not compared.

        Raises:
            ImplicitPRMError: naming what differs, or there is no record.
        """
        if self._known is None:
            raise ImplicitPRMError(
                f"{self._output} is there, but not {self.path.name}, which says how it was made; give another output"
            )
        before = _flat({name: self._known["settings"].get(name) for name in settings})
        now = _flat(settings)
        for name in [*before, *now]:
            if before.get(name) != now.get(name):
                raise ImplicitPRMError(
                    f"{self._output} was made with {name}={before.get(name)}, now it is {now.get(name)}; give another "
                    "output, or delete the file to start over"
                )

    def begin(self, settings: Mapping[str, Any], run: Mapping[str, Any], fresh: bool) -> None:
        """Write down that a run starts; the first of a `fresh` file forgets what an empty one was to be."""
        runs = [] if fresh or self._known is None else self._known["runs"]
        self._known = {"settings": dict(settings), "runs": [*runs, dict(run)]}
        write_json(self.path, self._known)


def settings_of(config: RolloutConfig) -> dict[str, Any]:
    """What a resumed run must share, as far as the options say."""
    policy, sampling, source = asdict(config.policy), asdict(config.sampling), config.problems
    server = isinstance(config.policy, ServerConfig)
    del policy["kind"]  # recorded as the backend
    sampling["batch_size"] = None if server else config.sampling.problems_per_batch
    return {
        "backend": "server" if server else "transformers",
        "policy": {name: value for name, value in policy.items() if not (server and name in _OF_A_RUN)},
        "sampling": sampling,
        "prompt": {"template": source.prompt_template, "system_prompt": source.system_prompt},
        "problems": {"name": source.name, "split": source.split, "revision": source.revision},
    }


def run_of(config: RolloutConfig, problems: Sequence[Problem], processes: int) -> dict[str, Any]:
    """What is noted of one run: when, with what, where, over which problems."""
    run: dict[str, Any] = {
        **now(),
        "processes": processes,
        "problems": {"count": len(problems), "sha256": _fingerprint(problems)},
    }
    if isinstance(config.policy, ServerConfig):
        run["base_url"] = config.policy.base_url
    return run


def now() -> dict[str, Any]:
    """When, and with which versions."""
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
    }


def _fingerprint(problems: Sequence[Problem]) -> str:
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps([problem.id, problem.text, problem.answer]).encode())
    return digest.hexdigest()[:16]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
