"""Process reward models without process labels: train, score, rerank (Yuan et al., arXiv 2412.01981)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from implicit_prm.data.groups import load_groups
    from implicit_prm.evaluation.api import (
        evaluate,
        evaluate_hard2verify,
        evaluate_prmbench,
        evaluate_process_bench,
        evaluate_shift,
    )
    from implicit_prm.models.implicit_prm import ImplicitPRM
    from implicit_prm.rewards.implicit_reward import aggregate
    from implicit_prm.training import ImplicitPRMConfig, ImplicitPRMTrainer
    from implicit_prm.training.run import fit
    from implicit_prm.types import Group, ImplicitPRMError, Scorer, StepScores

# Imported on first use, so that `import implicit_prm` is quick and pulls in no torch.
_HOMES = {
    "ImplicitPRM": "implicit_prm.models.implicit_prm",
    "ImplicitPRMError": "implicit_prm.types",
    "ImplicitPRMConfig": "implicit_prm.training",
    "ImplicitPRMTrainer": "implicit_prm.training",
    "Group": "implicit_prm.types",
    "Scorer": "implicit_prm.types",
    "StepScores": "implicit_prm.types",
    "aggregate": "implicit_prm.rewards.implicit_reward",
    "evaluate": "implicit_prm.evaluation.api",
    "evaluate_hard2verify": "implicit_prm.evaluation.api",
    "evaluate_prmbench": "implicit_prm.evaluation.api",
    "evaluate_process_bench": "implicit_prm.evaluation.api",
    "evaluate_shift": "implicit_prm.evaluation.api",
    "fit": "implicit_prm.training.run",
    "load_groups": "implicit_prm.data.groups",
}

__all__ = [
    "Group",
    "ImplicitPRM",
    "ImplicitPRMConfig",
    "ImplicitPRMError",
    "ImplicitPRMTrainer",
    "Scorer",
    "StepScores",
    "aggregate",
    "evaluate",
    "evaluate_hard2verify",
    "evaluate_prmbench",
    "evaluate_process_bench",
    "evaluate_shift",
    "fit",
    "load_groups",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
