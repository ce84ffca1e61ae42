"""The grid of models to train and ways to score with them, and the tasks that this takes.

A cell is a model and a way to score with it. All cells share the rollouts, the step labels (except AutoPSV's, which
come from a verifier of the same seed), the reference log-probabilities and the candidates. A seed decides the order of
the data, and which responses are used where not all are.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from implicit_prm import ImplicitPRMError
from studylib.measures import SIZES
from studylib.tasks import Task

LOSSES = ("ce", "dpo", "nca", "kto")
RESPONSES, SHARES = (1, 2, 4), (25, 50, 75)


@dataclass(frozen=True)
class World:
    """The policy, and the problems and responses of the study.

    Args:
        name: `sandbox`, or the hub id or path of a model, which is then studied on MATH and MATH-500.
        problems: number of training problems.
        responses: to each of them.
        test_problems: number of test problems.
        test_responses: to each of them.
        completions: of every prefix, for Math-Shepherd.
        overrides: options for all training runs.
    """

    name: str = "sandbox"
    problems: int = 300
    responses: int = 8
    test_problems: int = 200
    test_responses: int = 32
    completions: int = 8
    overrides: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether every step's true label is known."""
        return self.name == "sandbox"

    @property
    def sizes(self) -> list[int]:
        """The values of N of best-of-N."""
        return [n for n in SIZES if n <= self.test_responses]

    @property
    def policy(self) -> tuple[str, ...]:
        """Overrides that select the policy to sample from."""
        return ("policy=sandbox",) if self.exact else ("policy=hub", f"policy.name={self.name}")

    def sampled(self, split: Literal["train", "test"]) -> tuple[str, ...]:
        """Overrides of `ipr-rollout` for a split."""
        problems = self.problems if split == "train" else self.test_problems
        number = self.responses if split == "train" else self.test_responses
        where = {"train": "problems=math", "test": "problems=math500"}[split]
        chosen = ("problems=sandbox", f"problems.split={split}") if self.exact else (where, "sampling=default")
        return (*self.policy, *chosen, f"problems.limit={problems}", f"sampling.n={number}")

    @property
    def model(self) -> tuple[str, ...]:
        """Overrides of the training commands."""
        if self.exact:
            return ("model=sandbox", "data=sandbox", "trainer=sandbox")
        return ("model=hub", f"model.name={self.name}", "data=rollouts", "trainer=default")

    @property
    def official_vote(self) -> str:
        """The override for the official vote weights, sigmoid(0.001 * sum of log-ratios), at cross-entropy's beta."""
        return f"vote_scale={0.001 / (2 if self.exact else 0.05):g}"

    @property
    def steps(self) -> str:
        """The step rule."""
        return "newline" if self.exact else "blank_line"


@dataclass(frozen=True)
class Cell:
    """A model and a way to score with it.

    Args:
        name: of its folder.
        title: in the report.
        command: `train` (implicit) or `baseline` (explicit); empty if nothing is trained: the model of the cell `of` is
            scored, or else the initial policy.
        overrides: of the training command.
        data: the task whose rows are the training data.
        start: the cell whose model is the initial model; for AutoPSV, the verifier.
        of: the cell whose model is scored.
        scoring: overrides of `ipr-eval`.
    """

    name: str
    title: str
    command: Literal["train", "baseline", ""] = "train"
    overrides: tuple[str, ...] = ()
    data: str = "rollouts"
    start: str | None = None
    of: str | None = None
    scoring: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """The cells of a study, and its seeds."""

    world: World
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]

    def __getitem__(self, name: str) -> Cell:
        return next(cell for cell in self.cells if cell.name == name)

    def __contains__(self, name: str) -> bool:
        return any(cell.name == name for cell in self.cells)

    def measured(self, cell: Cell) -> list[str]:
        """The tasks that evaluate a cell: one per seed, or a single one if no training is involved."""
        return [f"{cell.name}/{seed}/eval" for seed in self.seeds] if cell.command or cell.of else [f"{cell.name}/eval"]

    def with_results(self, done: Container[str]) -> Grid:
        """The cells that are measured with all seeds, given the names of the tasks that are done."""
        return replace(
            self, cells=tuple(cell for cell in self.cells if all(one in done for one in self.measured(cell)))
        )

    def tasks(self) -> list[Task]:
        """All tasks, each after those that it needs."""
        world = self.world
        policy = (f"reference={world.name}", "beta=1")
        tasks = [
            Task("rollouts", "rollout", world.sampled("train")),
            Task("sampled", "rollout", world.sampled("test")),
            # Fill the reference cache before any cell uses it, so that no two compute the same log-probabilities.
            Task("reference/rollouts", "score", (*self._scoring(world.name, "rollouts"), *policy), ("rollouts",)),
            Task("reference/sampled", "score", (*self._scoring(world.name, "sampled"), *policy), ("sampled",)),
            Task("graded", "candidates", (*self._scoring(world.name, "sampled"), *policy), ("sampled",)),
        ]
        labels = {cell.data for cell in self.cells} - {"rollouts", "autopsv"}
        tasks += [Task(name, "label", self._labelling(name), ("rollouts",)) for name in sorted(labels, reverse=True)]
        for seed in self.seeds:
            for cell in self.cells:
                if cell.data == "autopsv":
                    verifier = f"{cell.start}/{seed}"
                    how = ("method=autopsv", "input={rollouts}/rows.jsonl", f"verifier={{{verifier}}}")
                    tasks.append(Task(f"autopsv/{seed}/labels", "label", how, ("rollouts", verifier)))
                if cell.command:
                    tasks.append(self._training(cell, seed))
                if cell.command or cell.of:
                    tasks.append(self._measuring(cell, f"{cell.of or cell.name}/{seed}", f"{cell.name}/{seed}/eval"))
        tasks += [
            self._measuring(cell, None, f"{cell.name}/eval") for cell in self.cells if not (cell.command or cell.of)
        ]
        return tasks

    def _training(self, cell: Cell, seed: int) -> Task:
        data = f"autopsv/{seed}/labels" if cell.data == "autopsv" else cell.data
        needs = [data]
        overrides = [*self.world.model, f"data.train={{{data}}}/rows.jsonl", "data.hold_out_prompts=0"]
        overrides += ["trainer.eval_strategy=no", "trainer.save_strategy=no", "overwrite=true", f"trainer.seed={seed}"]
        if cell.command == "train":
            overrides.append("reference_cache={study}/cache")
            needs.append("reference/rollouts")
        if cell.start is not None:
            needs.append(f"{cell.start}/{seed}")
            overrides.append(f"model.name={{{cell.start}/{seed}}}")
        return Task(
            f"{cell.name}/{seed}", cell.command, (*overrides, *self.world.overrides, *cell.overrides), tuple(needs)
        )

    def _measuring(self, cell: Cell, trained: str | None, name: str) -> Task:
        scoring = (*self._scoring("" if trained is None else f"{{{trained}}}", "sampled"), *cell.scoring)
        needs = ("sampled", "graded", "reference/sampled")
        return Task(name, "measure", scoring, needs if trained is None else (*needs, trained))

    def _scoring(self, checkpoint: str, rows: str) -> tuple[str, ...]:
        checkpoint = checkpoint or self.world.name
        untrained = (f"steps={self.world.steps}",) if checkpoint == self.world.name else ()
        return (
            f"checkpoint={checkpoint}",
            f"candidates={{{rows}}}/rows.jsonl",
            "reference_cache={study}/cache",
            *untrained,
        )

    def _labelling(self, method: str) -> tuple[str, ...]:
        how = [f"method={method}", "input={rollouts}/rows.jsonl"]
        if method == "math_shepherd":
            how += [*self.world.policy, f"steps={self.world.steps}", f"sampling.n={self.world.completions}"]
            how += [] if self.world.exact else ["sampling=default"]
        return tuple(how)


def grid(world: World, seeds: tuple[int, ...], only: Sequence[str] = ()) -> Grid:
    """The grid of a study. Exact step labels are part of it only on the sandbox.

    Args:
        world: the policy and problems.
        seeds: of training.
        only: names of cells; those whose models they need are added. All cells if empty.

    Raises:
        ImplicitPRMError: an unknown cell.
    """
    cells = {cell.name: cell for cell in _all(world)}
    unknown = sorted(set(only) - cells.keys())
    if unknown:
        raise ImplicitPRMError(f"unknown cell {unknown[0]}; choose from {', '.join(cells)}")
    wanted = set(only or cells)
    for _ in range(2):  # a needed cell may itself need another
        wanted |= {name for cell in cells.values() if cell.name in wanted for name in (cell.start, cell.of) if name}
    return Grid(world, tuple(cell for cell in cells.values() if cell.name in wanted), seeds)


def _all(world: World) -> list[Cell]:
    truth = "exact" if world.exact else "math_shepherd"
    cells = [Cell(loss, f"implicit, {loss.upper()}", overrides=(f"loss={loss}",)) for loss in LOSSES]
    cells += [
        Cell("orm", "outcome reward model", "baseline", ("kind=orm",)),
        _explicit("ms_hard", "Math-Shepherd, hard", "math_shepherd"),
        _explicit("ms_soft", "Math-Shepherd, soft", "math_shepherd", "soft"),
        _explicit("ms_next", "Math-Shepherd, hard, next token", "math_shepherd", kind="next_token"),
        _explicit("verifier", "outcome verifier, read at steps", "rollouts", "outcome"),
        _explicit("autopsv", "AutoPSV", "autopsv", start="verifier"),
    ]
    if world.exact:
        cells.append(_explicit("exact", "exact step labels", "exact"))
    cells.append(
        Cell("likelihood", "log-likelihood, untrained", "", scoring=("reference=none", "beta=1", "aggregate=sum"))
    )
    for loss in ("ce", "dpo"):
        name = loss.upper()
        cells += [
            Cell(
                f"{loss}_k{k}",
                f"{name}, {k} of {world.responses}",
                overrides=(f"loss={loss}", f"data.max_responses={k}"),
            )
            for k in RESPONSES
            if k < world.responses and not (loss == "dpo" and k == 1)  # one response makes no pair
        ]
        cells += [
            Cell(
                f"{loss}_p{share}",
                f"{name}, {share} % of the prompts",
                overrides=(f"loss={loss}", _prompts(world, share)),
            )
            for share in SHARES
        ]
        cells.append(
            Cell(f"{loss}_steps", f"{name}, then step labels", overrides=("loss=steps",), data=truth, start=loss)
        )
    without, against = ("reference=none",), (f"reference={world.name}",)
    cells += [
        Cell("dpo_ref_none", "DPO: with, without", of="dpo", scoring=without),
        Cell("dpo_none_none", "DPO: without, without", overrides=("loss=dpo", "model.reference=none")),
        Cell("dpo_none_ref", "DPO: without, with", of="dpo_none_none", scoring=against),
        Cell("ce_group_mean", "CE, offset by the group's mean", overrides=("loss=ce", "loss.offset=group_mean")),
        Cell(
            "ce_accuracy", "CE, offset by the prompt's accuracy", overrides=("loss=ce", "loss.offset=prompt_accuracy")
        ),
        Cell("prefix", "loss on every prefix (IPVRM)", overrides=("loss=prefix",)),
        Cell("ce_step_mean", "CE, steps by their tokens' mean", of="ce", scoring=("over=step_mean",)),
        Cell("ce_prefix", "CE, ranked by the lowest prefix", of="ce", scoring=("over=prefix",)),
        Cell(
            "ce_vote_raw", "CE, the official vote weights", of="ce", scoring=("vote_aggregate=sum", world.official_vote)
        ),
    ]
    return cells


def _explicit(
    name: str, title: str, data: str, labels: str = "hard", kind: str = "value_head", start: str | None = None
) -> Cell:
    return Cell(name, title, "baseline", (f"kind={kind}", f"labels={labels}"), data, start)


def _prompts(world: World, share: int) -> str:
    return f"data.max_prompts={world.problems * share // 100}"
