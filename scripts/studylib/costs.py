"""FLOPs of each kind of reward model, from the tokens of the first seed's runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from implicit_prm.costs.ledger import Ledger
from studylib.cells import Cell, Grid


@dataclass(frozen=True)
class Cost:
    """FLOPs of a reward model.

    Args:
        rollouts: sampling the responses.
        labels: labelling the steps; for AutoPSV, with the verifier's training.
        training: training, of all stages.
        scoring: scoring one candidate.
        epochs: number of epochs of the last stage.
    """

    rollouts: float
    labels: float
    training: float
    scoring: float
    epochs: float

    @property
    def total(self) -> float:
        """FLOPs of everything before scoring, with the responses."""
        return self.rollouts + self.collected

    @property
    def collected(self) -> float:
        """FLOPs without sampling the responses, as the paper counts."""
        return self.labels + self.training


def costs(grid: Grid, names: Sequence[str], folder: Path) -> dict[str, Cost]:
    """The costs of the trained cells among `names`, all of which must use all rollouts."""
    rollouts = Ledger()
    rollouts.rollouts(folder / "rollouts" / "rows.jsonl", tokenizer=None if grid.world.exact else grid.world.name)
    return {
        name: _cost(grid, grid[name], folder, rollouts.total()) for name in names if name in grid and grid[name].command
    }


def _cost(grid: Grid, cell: Cell, folder: Path, rollouts: float) -> Cost:
    seed, ledger, labels = grid.seeds[0], Ledger(), 0.0
    ledger.training(folder / cell.name / str(seed))
    training, epochs = ledger.total(), ledger.items[0].passes
    if cell.start is not None:  # the first stage, or AutoPSV's verifier
        before = Ledger()
        before.training(folder / cell.start / str(seed))
        if cell.data == "autopsv":
            labels += before.total()
        else:
            training += before.total()
    if cell.data != "rollouts":
        source = f"autopsv/{seed}/labels" if cell.data == "autopsv" else cell.data
        ledger = Ledger()
        ledger.labels(folder / source / "rows.jsonl")
        labels += ledger.total()
    scoring, candidates = Ledger(), folder / "sampled" / "rows.jsonl"
    scoring.scoring(folder / cell.name / str(seed), candidates)
    each = grid.world.test_problems * grid.world.test_responses
    return Cost(rollouts, labels, training, scoring.total() / each, epochs)
