"""Explicit reward models to compare implicit PRMs with, behind the same `Scorer`.

`run.fit` trains one (`ipr-baseline`), `labels` makes its step labels (`ipr-label`), and `RewardModel` scores with it.
"""

from implicit_prm.baselines.reward_model import RewardModel

__all__ = ["RewardModel"]
