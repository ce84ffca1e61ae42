"""The runs of the study: every arm is an `ipr-rl` command, run once for every seed.

A seed decides the order of the problems, the sampling, and the order of the data in the training of the PRM. Arms with
the same seed see the same problems in the same order, so that they are compared in pairs. An evaluation does not change
what is sampled in training after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studylib.tasks import Task

from implicit_prm import ImplicitPRMError

ROLLOUTS_PER_STEP = 64  # of configs/grpo/sandbox.yaml: 8 prompts with 8 responses each
DEV_RESPONSES = 2  # to a dev problem
PRM_RESPONSES = 8_000  # of configs/rollout.yaml: 1,000 problems with 8 responses each, which PRMs are trained on


@dataclass(frozen=True)
class Size:
    """How much is run.

    Args:
        steps: optimiser steps of a run.
        eval_steps: between evaluations.
        dev_problems: of an evaluation, with `DEV_RESPONSES` each.
        seeds: number of seeds.
    """

    steps: int
    eval_steps: int
    dev_problems: int
    seeds: int

    @property
    def rollouts(self) -> int:
        """Rollouts that a run trains on."""
        return self.steps * ROLLOUTS_PER_STEP


FULL = Size(steps=60, eval_steps=5, dev_problems=100, seeds=5)
QUICK = Size(steps=30, eval_steps=5, dev_problems=100, seeds=3)


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        name: of its folder.
        title: in the report.
        overrides: of `ipr-rl`.
        trained_prm: it uses the PRM that was trained beforehand.
        evaluated: on the dev problems; without it only the metrics of the training batches are read.
    """

    name: str
    title: str
    overrides: tuple[str, ...]
    trained_prm: bool = False
    evaluated: bool = True

    @property
    def label(self) -> str:
        """The title outside the table of E4, whose rows are changes of PRIME."""
        return f"PRIME, {self.title}" if self in E4 else self.title

    @property
    def dense(self) -> bool:
        """Whether it trains with process rewards that can be had where steps cannot be checked. No control."""
        return self.name.split("_")[0] in ("frozen", "prime", "ipvrm", "value")


def _frozen(coef: float, credit: str, granularity: str, shuffled: bool = False) -> Arm:
    """A frozen PRM with a weight, a credit and a granularity; as a control, with its rewards in a random order."""
    kind, title = ("shuffled", "frozen PRM, shuffled") if shuffled else ("frozen", "frozen PRM")
    overrides = (f"arm={kind}", f"grpo.process_coef={coef}", f"grpo.credit={credit}", f"grpo.granularity={granularity}")
    return Arm(f"{kind}_{granularity}_{credit}_{coef}", f"{title}, {granularity}, {credit}, {coef}", overrides, True)


def _value(name: str, title: str, *overrides: str, trained_prm: bool = True) -> Arm:
    """The PRM as a critic: its partial sums are a value, not a reward."""
    options = ("arm=value", *(("prm=sandbox",) if trained_prm else ()), *overrides)
    return Arm(f"value{name}", f"PRM as critic{title}", options, trained_prm)


# The arm that the others are compared with. It also logs the PRM that was trained beforehand, without using it.
OUTCOME = Arm("outcome", "outcomes, leave-one-out", ("arm=outcome", "prm=sandbox"), trained_prm=True)
GRPO = Arm("outcome_grpo", "outcomes, GRPO", ("arm=outcome_grpo",))
FROZEN = _frozen(0.2, "min", "step")
SHUFFLED = _frozen(0.2, "min", "step", shuffled=True)
VALUE = _value("", "")  # the default of `ipr-rl`
_ADB, _DLW = "grpo.prm_offset=prompt_accuracy", "grpo.prm_class_weight=rare"
_LEARNS = ("grpo.prm_update=after", _ADB)  # the log-odds that credit=value adds are the offset of the PRM's loss, too
PRIME = Arm("prime", "PRIME as published", ("arm=prime",))
EXACT = Arm("exact", "exact steps, sum, 0.2", ("arm=exact",))

E1 = (
    OUTCOME,
    GRPO,
    PRIME,
    Arm("prime_adb_dlw", "PRIME, ADB and DLW", ("arm=prime", _ADB, _DLW)),
    Arm("ipvrm", "IPVRM online, 0.05", ("arm=ipvrm",), trained_prm=True),
    Arm("ipvrm_1.0", "IPVRM online, 1.0", ("arm=ipvrm", "grpo.process_coef=1.0"), trained_prm=True),
    FROZEN,
    _frozen(1.0, "min", "step"),
    _frozen(1.0, "min", "token"),
    *(_frozen(coef, "sum", "step") for coef in (0.05, 0.2, 1.0)),
    _frozen(0.2, "sum", "token"),
    Arm(
        "frozen_grpo",
        f"{FROZEN.title}, and GRPO",
        (*FROZEN.overrides, "grpo.baseline=group_mean", "grpo.scale_rewards=group"),
        trained_prm=True,
    ),
    VALUE,
    *(_value(f"_lambda_{one}", f", lambda {one}", f"grpo.gae_lambda={one}") for one in (0.0, 0.5, 0.8)),
    _value("_token", ", token", "grpo.granularity=token"),
    _value("_online", ", learns online", *_LEARNS),
    _value(
        "_cold", ", starts as the policy and learns online", "prm=initial", "prm.beta=2", *_LEARNS, trained_prm=False
    ),
    EXACT,
    Arm("exact_1.0", "exact steps, sum, 1.0", ("arm=exact", "grpo.process_coef=1.0")),
    SHUFFLED,
    _frozen(0.2, "sum", "step", shuffled=True),
)
# What the arms of a frozen PRM are compared with: the same rewards in a random order within each response.
CONTROLS = tuple((arm.name.replace("shuffled", "frozen"), arm.name) for arm in E1 if arm.name.startswith("shuffled"))


def _online(name: str, title: str, *overrides: str) -> Arm:
    """The PRM learns online but is not used, so that all of these arms see the rollouts of `outcome`."""
    learns = ("arm=outcome", "prm=sandbox", "grpo.prm_update=after", *overrides)
    return Arm(f"online_{name}", title, learns, trained_prm=True, evaluated=False)


NAIVE = _online("naive", "naive")
E3 = (NAIVE, _online("dlw", "DLW", _DLW), _online("adb", "ADB", _ADB), _online("both", "ADB and DLW", _ADB, _DLW))


def _prime(name: str, title: str, *overrides: str, trained_prm: bool = False) -> Arm:
    return Arm(f"prime_{name}", title, ("arm=prime", *overrides), trained_prm)


# PRIME with one change each. The first one has its filter and its whitening, and tells what they do by themselves.
E4 = (
    Arm(
        "outcome_filtered",
        "no process rewards",
        ("arm=outcome", "grpo.whiten=true", "grpo.accuracy_range=[0.2,0.8]"),
    ),
    _prime("slow", "PRM's learning rate / 10", "grpo.prm_learning_rate=1.0e-4"),
    _prime("batch_std", "divided by the standard deviation", "grpo.process_scale=batch_std"),
    _prime("unscaled", "not divided", "grpo.process_scale=none"),
    _prime("beta", "beta = 2 in the PRM's loss", "prm.beta=2"),
    _prime("small", "weight 0.2", "grpo.process_coef=0.2"),
    _prime("min", "the lowest reward as the return", "grpo.credit=min"),
    _prime("warm", "a PRM trained beforehand, whose beta is 2", "prm=sandbox", trained_prm=True),
)
# Other learning rates of the policy for outcomes alone: do they learn as well as they can in the comparison?
RATES = tuple(
    Arm(f"outcome_{rate}", f"outcomes, learning rate {rate}", ("arm=outcome", f"grpo.learning_rate={rate}"))
    for rate in ("2.0e-4", "1.0e-3")
)

ARMS = (*E1, *E3, *E4, *RATES)
# What runs first, and is drawn; what the quick study has besides; the rest is in the full study alone.
MAIN = ("outcome", "outcome_grpo", "prime", FROZEN.name, "frozen_step_sum_0.2", "value", "exact", SHUFFLED.name)
ALSO_QUICK = ("online_naive", "online_both", "prime_slow", "prime_batch_std", "prime_min", "prime_warm")


def selected(quick: bool, only: Sequence[str] = ()) -> list[Arm]:
    """The arms of a study: all of them, fewer in the quick study, or `outcome` and those that are named.

    Raises:
        ImplicitPRMError: an unknown name.
    """
    known = {arm.name: arm for arm in ARMS}
    if unknown := [name for name in only if name not in known]:
        raise ImplicitPRMError(f"unknown arm {unknown[0]}; choose from {', '.join(known)}")
    if only:
        return [arm for arm in ARMS if arm.name in {OUTCOME.name, *only}]
    return [arm for arm in ARMS if not quick or arm.name in (*MAIN, *ALSO_QUICK)]


def runs(arm: Arm, size: Size, new: bool = False) -> list[str]:
    """The names of an arm's runs, one per seed; `new` ones are with the seeds that follow those of the study."""
    return [f"{arm.name}/{seed}" for seed in _seeds(size, new)]


def tasks(arms: Sequence[Arm], size: Size, overrides: Sequence[str] = (), new: bool = False) -> list[Task]:
    """All tasks in the order in which they run: an arm with all seeds before the next one, the main arms first.

    Args:
        arms: to run.
        size: of the study.
        overrides: options for all runs of `ipr-rl`.
        new: with the seeds that follow those of the study.
    """
    seeds = _seeds(size, new)
    made: list[Task] = []
    if any(arm.trained_prm for arm in arms):
        made.append(Task("rollouts", "rollout"))
        made += [Task(f"prm/{seed}", "train", _training(seed), ("rollouts",)) for seed in seeds]
    ordered = sorted(arms, key=lambda arm: (arm.name not in MAIN, arm.name not in ALSO_QUICK))
    return [*made, *(_run(arm, seed, size, overrides) for arm in ordered for seed in seeds)]


def _seeds(size: Size, new: bool) -> range:
    return range(size.seeds, 2 * size.seeds) if new else range(size.seeds)


def _training(seed: int) -> tuple[str, ...]:
    return (
        *("data.train={rollouts}/rows.jsonl", "reference_cache={study}/cache", f"trainer.seed={seed}"),
        *("trainer.eval_strategy=no", "trainer.save_strategy=no", "overwrite=true"),
    )


def _run(arm: Arm, seed: int, size: Size, overrides: Sequence[str]) -> Task:
    evaluation = (
        *(f"grpo.eval_steps={size.eval_steps}", "+grpo.eval_on_start=true"),
        *(f"dev_limit={size.dev_problems}", f"grpo.num_generations_eval={DEV_RESPONSES}"),
    )
    options = (
        *arm.overrides,
        *(evaluation if arm.evaluated else ("dev_split=null", "grpo.eval_strategy=no")),
        *(f"grpo.max_steps={size.steps}", f"grpo.seed={seed}"),
        *("grpo.save_strategy=no", "+grpo.disable_tqdm=true", "+grpo.use_cpu=true", "grading.workers=1"),
        *("overwrite=true", *overrides),
    )
    if not arm.trained_prm:
        return Task(f"{arm.name}/{seed}", "rl", options)
    return Task(f"{arm.name}/{seed}", "rl", (*options, f"prm.checkpoint={{prm/{seed}}}"), (f"prm/{seed}",))
