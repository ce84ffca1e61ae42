"""What the paper compares implicit PRMs with: explicit reward models on the same responses, behind the same `Scorer`.

`fitting.fit` trains one (`ipr-baseline`), `labelling.label` makes the step labels for it (`ipr-label`), `RewardModel`
scores with it, and `flops.Ledger` says what all of that cost.
"""

from implicit_prm.baselines.reward_model import RewardModel

__all__ = ["RewardModel"]
