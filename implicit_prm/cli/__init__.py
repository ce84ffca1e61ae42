"""The commands: Hydra composes the options, a dataclass checks them, one function is called.

Only this room imports Hydra.
"""
