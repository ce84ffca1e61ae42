"""Options of grading, wherever answers are graded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from implicit_prm.config.validation import check_range
from implicit_prm.types import ImplicitPRMError

Extraction = Literal["boxed", "standard"]


@dataclass
class GradingConfig:
    """How answers are graded.

    Args:
        extraction: `boxed` takes the last \\boxed{}. `standard` takes the first that is present of an answer field of a
            JSON object, the last \\boxed{}, `####`, "the answer is", and the last value that math-verify finds.
        limit_s: CPU seconds for one comparison.
        workers: Number of processes that compare answers; None for one per CPU core, 8 at most.
        cache: Folder for the results of comparisons; `default` is $IPR_CACHE, or ~/.cache/implicit_prm. None keeps
            none.
    """

    extraction: Extraction = "standard"
    limit_s: float = 5.0
    workers: int | None = None
    cache: str | None = "default"

    def validate(self) -> None:
        check_range(self, "workers", at_least=1, where="grading.")
        if not (self.limit_s > 0 and math.isfinite(self.limit_s)):
            raise ImplicitPRMError(f"grading.limit_s is {self.limit_s}; expected a positive number of seconds")
