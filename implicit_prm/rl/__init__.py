"""Implicit process rewards as dense rewards for reinforcement learning.

`advantages` turns outcomes and token rewards into an advantage for every token: pure functions on tensors.
"""
