"""Process reward models without process labels: train, score, rerank (Yuan et al., arXiv 2412.01981)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from implicit_prm.data.groups import load_groups
    from implicit_prm.evaluation.best_of_n import evaluate
    from implicit_prm.fitting import fit
    from implicit_prm.model import ImplicitPRM
    from implicit_prm.records import Group, ImplicitPRMError, Scorer, StepScores
    from implicit_prm.reward.head import aggregate
    from implicit_prm.training import ImplicitPRMTrainer

# Imported on first use, so that `import implicit_prm` is quick and pulls in no torch.
_HOMES = {
    "ImplicitPRM": "implicit_prm.model",
    "ImplicitPRMError": "implicit_prm.records",
    "ImplicitPRMTrainer": "implicit_prm.training",
    "Group": "implicit_prm.records",
    "Scorer": "implicit_prm.records",
    "StepScores": "implicit_prm.records",
    "aggregate": "implicit_prm.reward.head",
    "evaluate": "implicit_prm.evaluation.best_of_n",
    "fit": "implicit_prm.fitting",
    "load_groups": "implicit_prm.data.groups",
}

__all__ = [
    "Group",
    "ImplicitPRM",
    "ImplicitPRMError",
    "ImplicitPRMTrainer",
    "Scorer",
    "StepScores",
    "aggregate",
    "evaluate",
    "fit",
    "load_groups",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
