"""Options of `ipr-train estimate=MACHINE`: the machine, and the size of data that is not a local file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from implicit_prm.config.validation import check_range
from implicit_prm.types import ImplicitPRMError


@dataclass
class EstimateConfig:
    """The machine to estimate memory and time for, and the size of the data if it is not a local file.

    Args:
        machine: Its name, as printed.
        processes: Number of processes, one per GPU.
        sharding: How the processes share weights, gradients and optimiser states.
        memory_gb: Memory of one GPU in GB; None measures this machine.
        tflops: Sustained training rate of one GPU in TFLOP/s; None measures this machine.
        prompts: Number of prompts.
        responses: Number of responses per prompt.
        prompt_tokens: Mean length of a prompt.
        response_tokens: Mean length of a response.
        longest_tokens: Longest prompt + response.
    """

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
        check_range(self, *counts, at_least=1, where="estimate.")
        check_range(self, "memory_gb", "tflops", above=0, where="estimate.")
        if self.sharding == "none" and self.processes > 1:
            raise ImplicitPRMError(
                f"estimate.processes={self.processes} with estimate.sharding=none: choose ddp, fsdp2 or zero3"
            )
        if self.longest_tokens < self.prompt_tokens + self.response_tokens:
            raise ImplicitPRMError(
                f"estimate.longest_tokens is {self.longest_tokens}; it must be at least the mean length, prompt_tokens "
                f"+ response_tokens = {self.prompt_tokens} + {self.response_tokens}"
            )
