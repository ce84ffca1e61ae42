"""The order of prompts in an epoch, the same for a run that is resumed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler


class EpochOrder(Sampler[int]):
    """TRL's sampler with an order of each epoch that does not depend on the epochs before.

    TRL draws the orders one after the other, so a run that is resumed in a later epoch starts with the first order.

    Args:
        sampler: TRL's RepeatSampler.
        seed: of the order; the epoch is added.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self.sampler, self.seed = sampler, seed

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the order depends. The data loader calls it."""
        if self.sampler.shuffle:
            self.sampler.generator.manual_seed(self.seed + epoch)

    def __iter__(self) -> Iterator[int]:
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)
