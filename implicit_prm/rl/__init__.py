"""Implicit process rewards as dense rewards for reinforcement learning.

`reward_function` makes any PRM a reward function of TRL's trainers. `advantages` turns outcomes and token rewards into
an advantage for every token: pure functions on tensors.
"""

from implicit_prm.rl.reward_function import reward_function

__all__ = ["reward_function"]
