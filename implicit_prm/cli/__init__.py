"""The commands: Hydra in, a dataclass out, one function called. The only place that imports Hydra."""
