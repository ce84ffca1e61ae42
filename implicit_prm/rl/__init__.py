"""Implicit process rewards as dense rewards for reinforcement learning, with TRL.

`reward_function` makes any PRM a reward function of TRL's trainers. `PrimeTrainer` with `PrimeConfig` gives every token
an advantage, from outcomes and process rewards, and updates the PRM online; both need the extra `[rl]`. `advantages`
has the formulas, as pure functions on tensors.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from implicit_prm.rl.reward_function import reward_function
from implicit_prm.rl.token_rewards import lowest_credit

if TYPE_CHECKING:
    from implicit_prm.rl.prime_config import PrimeConfig
    from implicit_prm.rl.prime_trainer import PrimeTrainer

# Imported on first use: they need TRL.
_HOMES = {"PrimeConfig": "implicit_prm.rl.prime_config", "PrimeTrainer": "implicit_prm.rl.prime_trainer"}

__all__ = ["PrimeConfig", "PrimeTrainer", "lowest_credit", "reward_function"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
