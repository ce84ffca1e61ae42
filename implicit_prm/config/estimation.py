"""Options of `ipr-train estimate=MACHINE`: the machine to estimate for, and lengths where there is no data to count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from implicit_prm.config.mapping import at_least
from implicit_prm.types import ImplicitPRMError


@dataclass
class EstimateConfig:
    """A machine (`memory_gb` and `tflops` of one GPU; None: measured here), and the shape of data that is not here."""

    machine: str
    processes: int = 1
    sharding: Literal["none", "ddp", "fsdp2", "zero3"] = "none"
    memory_gb: float | None = None
    tflops: float | None = None
    prompts: int = 10_000
    responses: int = 8
    prompt_tokens: int = 130
    response_tokens: int = 370
    longest_tokens: int = 2048

    def validate(self) -> None:
        counts = ("processes", "prompts", "responses", "prompt_tokens", "response_tokens", "longest_tokens")
        at_least(self, 1, *counts, where="estimate.")
        for key in ("memory_gb", "tflops"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise ImplicitPRMError(f"estimate.{key} is {value}; it must be above 0 (null measures it here)")
        if self.sharding == "none" and self.processes > 1:
            raise ImplicitPRMError(
                f"estimate.processes={self.processes} with estimate.sharding=none; say how they work together: ddp, "
                "fsdp2 or zero3"
            )
        if self.longest_tokens < self.prompt_tokens + self.response_tokens:
            raise ImplicitPRMError(
                f"estimate.longest_tokens is {self.longest_tokens}, less than prompt_tokens + response_tokens "
                f"({self.prompt_tokens} + {self.response_tokens}), which are means"
            )
