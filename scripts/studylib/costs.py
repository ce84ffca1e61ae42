"""What each way to a reward model cost, from the tokens of the runs of the first seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from implicit_prm.costs.ledger import Ledger
from studylib.cells import Cell, Grid


@dataclass(frozen=True)
class Cost:
    """FLOPs of sampling the responses, of labelling steps (a verifier's training with it), of training, and of scoring
    one candidate. `epochs` of the (last) training."""

    rollouts: float
    labels: float
    training: float
    scoring: float
    epochs: float

    @property
    def total(self) -> float:
        """Of what is there before anything is scored, the responses too."""
        return self.rollouts + self.collected

    @property
    def collected(self) -> float:
        """What comes on top of the responses, as the paper counts."""
        return self.labels + self.training


def costs(grid: Grid, names: Sequence[str], folder: Path) -> dict[str, Cost]:
    """Of the trained cells among these; all of them learn from all rollouts."""
    rollouts = Ledger()
    rollouts.rollouts(folder / "rollouts" / "rows.jsonl", tokenizer=None if grid.world.exact else grid.world.name)
    return {
        name: _cost(grid, grid[name], folder, rollouts.total()) for name in names if name in grid and grid[name].command
    }


def _cost(grid: Grid, cell: Cell, folder: Path, rollouts: float) -> Cost:
    seed, ledger, labels = grid.seeds[0], Ledger(), 0.0
    ledger.training(folder / cell.name / str(seed))
    training, epochs = ledger.total(), ledger.items[0].passes
    if cell.start is not None:  # a verifier serves to label; a first stage is training
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
