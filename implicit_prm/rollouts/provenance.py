"""`<output>.meta.json`: how a file of rollouts or step labels was made."""

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
from implicit_prm.utils.secrets import without_secrets

_PACKAGES = ("implicit-prm", "torch", "transformers", "openai", "math-verify")
# A server's address and load do not change its answers, so they may differ between runs.
_SERVER_RUN_OPTIONS = ("base_url", "api_key_env", "concurrency", "timeout_s", "retries")


class Provenance:
    """The record of a file of rollouts or step labels.

    In the JSON file, `settings` has the options that all runs share (backend, model and weights, sampling, prompt,
    source of the problems), and `runs` what may differ (time, package versions, server address, number of problems).
    Credentials are hidden, and may change.

    Raises:
        ImplicitPRMError: the record exists but cannot be read.
    """

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(output.name + ".meta.json")
        self._output = output
        self._known: dict[str, Any] | None = None
        if self.path.exists():
            try:
                known = json.loads(self.path.read_text(encoding="utf-8"))
                self._known = {"settings": dict(known["settings"]), "runs": list(known["runs"])}
            except (ValueError, KeyError, TypeError, RecursionError):
                raise ImplicitPRMError(
                    f"{self.path} is not a record of rollouts or labels; restore it, or choose another output"
                ) from None

    def check_ours(self) -> None:
        """Refuse a file that was not made by this package, before it is changed.

        Raises:
            ImplicitPRMError: the output is not empty and there is no record of how it was made.
        """
        if self._known is None and self._output.exists() and self._output.stat().st_size:
            raise self._without_record()

    def _without_record(self) -> ImplicitPRMError:
        return ImplicitPRMError(
            f"{self._output} exists without {self.path.name}, the record of how it was made; choose another output"
        )

    def check(self, options: Mapping[str, Any]) -> None:
        """Check that the file was made with these options. Recorded options that are not given are not compared.

        Raises:
            ImplicitPRMError: an option differs, or there is no record.
        """
        if self._known is None:
            raise self._without_record()
        before = _flat({name: self._known["settings"].get(name) for name in options})
        now = _flat(without_secrets(options))
        for name in [*before, *now]:
            if before.get(name) != now.get(name):
                raise ImplicitPRMError(
                    f"{self._output} was made with {name}={before.get(name)}, but {name}={now.get(name)} is given; "
                    "choose another output, or delete the file to start again"
                )

    def begin(self, options: Mapping[str, Any], run: Mapping[str, Any], fresh: bool) -> None:
        """Record the start of a run. With `fresh` (no rows yet), earlier runs are forgotten."""
        runs = [] if fresh or self._known is None else self._known["runs"]
        self._known = without_secrets({"settings": options, "runs": [*runs, run]})
        write_json(self.path, self._known)


def fixed_options(config: RolloutConfig) -> dict[str, Any]:
    """The options that a resumed run must share."""
    policy, sampling, source = asdict(config.policy), asdict(config.sampling), config.problems
    server = isinstance(config.policy, ServerConfig)
    del policy["kind"]  # recorded as the backend
    sampling["batch_size"] = None if server else config.sampling.problems_per_batch
    return {
        "backend": "server" if server else "transformers",
        "policy": {name: value for name, value in policy.items() if not (server and name in _SERVER_RUN_OPTIONS)},
        "sampling": sampling,
        "prompt": {
            "template": source.prompt_template,
            "system_prompt": source.system_prompt,
            **({"template_kwargs": source.template_kwargs} if source.template_kwargs else {}),
        },
        "problems": {"name": source.name, "split": source.split, "revision": source.revision},
        "grading": {"extraction": config.grading.extraction},
        "algorithm": None,  # of a search
    }


def run_record(config: RolloutConfig, problems: Sequence[Problem], processes: int) -> dict[str, Any]:
    """What is recorded of one run: time, versions, server, problems."""
    run: dict[str, Any] = {
        **now(),
        "processes": processes,
        "problems": {"count": len(problems), "sha256": _fingerprint(problems)},
    }
    if isinstance(config.policy, ServerConfig):
        run["base_url"] = config.policy.base_url
    return run


def now() -> dict[str, Any]:
    """Time and package versions."""
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
    """Nested options by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
