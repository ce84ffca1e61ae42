"""Options of `ipr-rollout`: problems, sampling, where to write."""

from __future__ import annotations

from dataclasses import dataclass

from implicit_prm.config.mapping import at_least
from implicit_prm.config.models import PolicyConfig
from implicit_prm.records import ImplicitPRMError


@dataclass
class ProblemsConfig:
    """Problems with known answers to sample responses for."""

    name: str
    path: str | None = None
    split: str = "test"
    revision: str | None = None
    limit: int | None = None
    prompt_template: str = "{problem}"
    system_prompt: str | None = None

    def validate(self) -> None:
        at_least(self, 1, "limit", where="problems.")
        if self.path is not None and self.revision is not None:
            raise ImplicitPRMError(
                "problems.path is a local copy, and problems.revision a commit on the hub; drop one of them"
            )
        if self.name == "sandbox" and (self.path is not None or self.revision is not None):
            raise ImplicitPRMError("the sandbox makes its problems itself; drop problems.path and problems.revision")


@dataclass
class SamplingConfig:
    n: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 1024
    batch_size: int = 8
    seed: int = 0

    def validate(self) -> None:
        at_least(self, 1, "n", "max_new_tokens", "batch_size", where="sampling.")
        if self.temperature <= 0:
            raise ImplicitPRMError(
                f"sampling.temperature is {self.temperature}; it must be above 0: n equal responses teach nothing"
            )
        if not 0 < self.top_p <= 1:
            raise ImplicitPRMError(f"sampling.top_p is {self.top_p}; it must be in (0, 1]")


@dataclass
class RolloutConfig:
    policy: PolicyConfig
    problems: ProblemsConfig
    sampling: SamplingConfig
    output: str
