"""The results of the study, and the dense reward that is the best of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from implicit_prm.evaluation.statistics import Interval
from rllib import arms, curves
from rllib.curves import Arm, Ratio

GOAL = 0.6  # of the rollouts of outcomes alone


@dataclass(frozen=True)
class Choice:
    """The dense reward with the best ratio to outcomes alone.

    Args:
        arm: that gives it.
        ratio: on the seeds that it was chosen with.
        tried: number of dense rewards that it was chosen from.
        new_ratio: on new seeds; None if they have not run.
    """

    arm: arms.Arm
    ratio: Interval
    tried: int
    new_ratio: Interval | None

    @property
    def decisive(self) -> Interval:
        """The ratio on new seeds if there is one."""
        return self.new_ratio or self.ratio


@dataclass(frozen=True)
class Results:
    """The arms that have run with all seeds.

    Args:
        size: of the study.
        found: the logs of each arm, by name.
        levels: dev pass@1 that rollouts are counted to.
        new: the logs of the arms `to_confirm` with new seeds, by name; empty if they have not run.
    """

    size: arms.Size
    found: Mapping[str, Arm]
    levels: Sequence[float]
    new: Mapping[str, Arm] = field(default_factory=dict)

    def of(self, some: Sequence[arms.Arm]) -> list[tuple[arms.Arm, Arm]]:
        """Those of some arms that have run."""
        return [(arm, self.found[arm.name]) for arm in some if arm.name in self.found]

    @property
    def outcome(self) -> Arm:
        """Outcomes alone, with the baseline that most arms share."""
        return self.found[arms.OUTCOME.name]

    @property
    def best_outcome(self) -> arms.Arm:
        """The form of outcomes alone with the higher final accuracy, which ratios are taken to."""
        return max(self.of((arms.OUTCOME, arms.GRPO)), key=lambda one: one[1].final.mean())[0]

    @cached_property
    def ratios(self) -> dict[str, Ratio]:
        """Of all evaluated arms to the best outcomes alone, by name."""
        against = self.found[self.best_outcome.name]
        return {arm.name: curves.ratio(one, against) for arm, one in self.of((*arms.E1, *arms.E4))}

    @cached_property
    def choice(self) -> Choice | None:
        """The best dense reward that can be had without exact step labels; None if none was tried."""
        ratios = {arm: self.ratios[arm.name].interval for arm, _ in self.of((*arms.E1, *arms.E4)) if arm.dense}
        if not ratios:
            return None
        best = min(ratios, key=lambda arm: _rank(ratios[arm]))
        new = None
        if self.new:
            new = curves.ratio(self.new[best.name], self.new[self.best_outcome.name]).interval
        return Choice(best, ratios[best], len(ratios), new)

    @property
    def to_confirm(self) -> list[arms.Arm]:
        """What runs again with new seeds: a dense reward that is shown to need fewer rollouts, and outcomes alone.

        The best of many arms owes a part of its ratio to the seeds that it was chosen with.
        """
        if self.choice is None or not self.choice.ratio.high < 1:
            return []
        return [self.best_outcome, self.choice.arm]


def _rank(one: Interval) -> tuple[bool, bool, float, float]:
    """Ratios that reach the goal first, then those shown to be below 1: a low but uncertain one hides none of them."""
    shown = one.high < 1
    return not (shown and one.value <= GOAL), not shown, one.value, one.high
