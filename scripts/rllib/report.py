"""The sections of the report: E1 to E4, with tables, curves and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from studylib.report import Section, Table

from implicit_prm.evaluation.statistics import Interval
from rllib import arms, curves, figures
from rllib.curves import Arm, Floats, mean_interval

GOAL = 0.6  # of the rollouts of outcomes alone


@dataclass(frozen=True)
class Results:
    """The arms that have run with all seeds.

    Args:
        size: of the study.
        found: the logs of each arm, by name.
        levels: dev pass@1 that rollouts are counted to.
    """

    size: arms.Size
    found: Mapping[str, Arm]
    levels: Sequence[float]

    def of(self, some: Sequence[arms.Arm]) -> list[tuple[arms.Arm, Arm]]:
        """Those of some arms that have run."""
        return [(arm, self.found[arm.name]) for arm in some if arm.name in self.found]

    @property
    def outcome(self) -> Arm:
        """Outcomes alone."""
        return self.found[arms.OUTCOME.name]


def sections(results: Results) -> list[Section]:
    """The sections of the experiments for which there are runs."""
    made = (learning(results), control(results), blame(results), drift(results), changes(results), rates(results))
    return [one for one in made if one is not None]


def headline(results: Results) -> str:
    """Whether a dense reward that can be had without exact step labels reaches the goal."""
    usable = [arm for arm in arms.E1 if arm.trained_prm or arm.name.startswith(("prime", "ipvrm"))]
    usable = [arm for arm in usable if not arm.name.startswith(("outcome", "shuffled"))]
    ratios = {arm: curves.ratio(found, results.outcome) for arm, found in results.of(usable)}
    if not ratios:
        return "No dense reward that can be had without exact step labels was tried."
    best = min(ratios, key=lambda arm: _rank(ratios[arm].interval))
    one = ratios[best].interval
    what = "the final accuracy of outcomes alone"
    if np.isinf(one.value):
        return f"No dense reward of {len(ratios)} that were tried reaches {what} within a run."
    if one.high < 1 and one.value <= GOAL:
        start = f"A dense reward reaches {what} in"
    elif one.high < 1:
        start = f"No dense reward reaches {what} in {GOAL:.0%} of its rollouts; the best needs"
    else:
        start = f"No dense reward is shown to reach {what} in fewer rollouts; the best needs"
    cost = f", without the {arms.PRM_RESPONSES:,} responses of its PRM's training" if best.trained_prm else ""
    return f"{start} {times(one)} of the rollouts{cost} ({best.title}; the best of {len(ratios)} that were tried)."


def _rank(one: Interval) -> tuple[bool, bool, float, float]:
    """Ratios that reach the goal first, then those shown to be below 1: a low but uncertain one hides none of them."""
    shown = one.high < 1
    return not (shown and one.value <= GOAL), not shown, one.value, one.high


def learning(results: Results) -> Section:
    """E1: accuracy along training."""
    columns = ["", "final pass@1", "mean pass@1", "difference from outcomes"]
    columns += [f"to {level:.0%}" for level in results.levels] + ["ratio to outcomes' final", "reached"]
    rows = []
    for arm, found in results.of(arms.E1):
        ratio = curves.ratio(found, results.outcome)
        same = found is results.outcome
        rows.append(
            [
                *(arm.title, percent(found.final), percent(found.area)),
                "" if same else points(found.area - results.outcome.area),
                *(_reached(found, level) for level in results.levels),
                "1" if same else times(ratio.interval),
                f"{ratio.reached:.0%}",
            ]
        )
    text = (
        "Final pass@1 is the mean of the last three evaluations, mean pass@1 the mean over the run (the area under the "
        "curve), in per cent. `to 50%`: the rollouts after which the mean curve of an arm reaches 50 %, and how many "
        "of its seeds do. The ratio: the rollouts after which its mean curve reaches the final accuracy of outcomes "
        "alone, divided by theirs. A curve that does not reach it counts as infinite, also in the bootstrap; `reached` "
        "is the share of resamples that do. Curves are averaged over three evaluations first."
    )
    beforehand = (
        f"A frozen PRM was trained beforehand on {arms.PRM_RESPONSES:,} graded responses of the untrained policy, "
        f"which are not counted; a run has {results.size.rollouts:,} rollouts. `exact steps` are the checker's, an "
        "upper bound."
    )
    shown = [arm for arm in arms.E1 if arm.name in (*arms.MAIN, "ipvrm")]
    figure = figures.accuracy([(arm.title, found) for arm, found in results.of(shown)])
    return Section(
        "E1: does it learn faster?",
        [text, beforehand],
        [Table(columns, rows)],
        figure,
        "rl-accuracy",
        headline(results),
    )


def control(results: Results) -> Section | None:
    """E1's control: is it the place of the rewards that helps?"""
    pairs = [(arms.FROZEN.name, arms.SHUFFLED.name), ("frozen_step_sum_1.0", "shuffled_1.0")]
    rows, found = [], []
    for a, b in pairs:
        if {a, b} <= results.found.keys():
            one = mean_interval(results.found[a].area - results.found[b].area)
            found.append(one)
            rows.append([_title(a), _title(b), _points(one)])
    if not found:
        return None
    helps = sum(one.low > 0 for one in found)
    verdict = f"In {helps} of {len(found)} comparisons the places of the rewards are shown to matter."
    text = (
        "The frozen PRM's step rewards in a random order within each response have the same number and size. If they "
        "do as well, what the PRM knows of single steps does not help."
    )
    return Section("E1: the control", [text], [Table(["", "shuffled", "mean pass@1, points"], rows)], verdict=verdict)


def blame(results: Results) -> Section | None:
    """E2: which steps get the negative advantage."""
    shown = [pair for pair in results.of(arms.E1) if pair[1].logged("advantage/blame") is not None]
    if not shown:
        return None
    measures = {"advantage/blame": "blame", "advantage/step_auroc": "advantage AUROC", "prm/step_auroc": "PRM AUROC"}
    columns = [""] + [f"{short}, {when}" for short in measures.values() for when in ("first batch", "rest")]
    rows = []
    for arm, found in shown:
        cells = [_before_and_along(found, name, scale=100 if name.endswith("blame") else 1) for name in measures]
        rows.append([arm.title, *(text for pair in cells for text in pair)])
    text = (
        "Blame is the share of the negative advantage of a response that is on its first wrong step, in per cent, the "
        "mean over incorrect responses to prompts that also have correct ones: those that outcomes alone blame. "
        "The AUROCs: does the mean advantage, or the mean reward, of a step's tokens tell right steps "
        "from first wrong ones? The first batch is of the untrained policy. Outcomes alone blame all tokens of a wrong "
        "response alike."
    )
    verdict = ""
    if arms.FROZEN.name in results.found:
        frozen, outcome = (_rest(one, "advantage/blame") for one in (results.found[arms.FROZEN.name], results.outcome))
        verdict = (
            f"The frozen PRM puts {points(frozen - outcome)} points more of the blame on the first wrong step than "
            "outcomes alone do."
        )
    lines = [(arm.title, found) for arm, found in shown if arm.name in arms.MAIN]
    figure = figures.along(lines, {"advantage/blame": "blame"})
    return Section("E2: where is the blame?", [text], [Table(columns, rows)], figure, "rl-blame", verdict)


def drift(results: Results) -> Section | None:
    """E3: what online updates do to the PRM, on the same rollouts."""
    shown = results.of(arms.E3)
    if not shown:
        return None
    measures = {
        "prm/outcome_auroc": "outcome AUROC",
        "prm/pair_accuracy": "pair accuracy",
        "prm/step_auroc": "step AUROC",
    }
    columns = [""] + [f"{short}, {part}" for short in measures.values() for part in ("first batch", "last third")]
    columns += [f"{short}, last third: difference from frozen" for short in measures.values()]
    rows = []
    for title, found in [("frozen", results.outcome), *((arm.title, found) for arm, found in shown)]:
        cells = [text for name in measures for text in (_first(found, name), _text(_last_third(found, name)))]
        cells += [
            "" if found is results.outcome else _signed(_last_third(found, name) - _last_third(results.outcome, name))
            for name in measures
        ]
        rows.append([title, *cells])
    text = (
        "A PRM that was trained beforehand learns from every batch after it has scored it. Its rewards are not used, "
        "so that all rows see the same rollouts, those of outcomes alone. Outcome AUROC: does the PRM rank correct "
        "responses of the batch above wrong ones? Pair accuracy: the same among responses to one prompt, as baselines "
        "subtract the difficulty of a prompt, and ADB leaves it out of the rewards. Step AUROC: does it rank right "
        "steps above first wrong ones?"
    )
    verdict = ""
    if arms.NAIVE.name in results.found:
        naive, frozen = (
            _last_third(one, "prm/pair_accuracy") for one in (results.found[arms.NAIVE.name], results.outcome)
        )
        verdict = f"The naive update changes the pair accuracy in the last third by {_signed(naive - frozen)}."
    lines = [("frozen", results.outcome), *((arm.title, found) for arm, found in shown)]
    figure = figures.along(lines, measures)
    return Section("E3: does the PRM drift?", [text], [Table(columns, rows)], figure, "rl-drift", verdict)


def changes(results: Results) -> Section | None:
    """E4: PRIME with one change each."""
    shown = results.of(arms.E4)
    if not shown or arms.PRIME.name not in results.found:
        return None
    prime = results.found[arms.PRIME.name]
    columns = ["", "final pass@1", "mean pass@1", "difference from PRIME", "difference from outcomes"]
    columns += ["PRM's pair accuracy, last third", "advantage's step AUROC"]
    rows = []
    for title, found in [("PRIME as published", prime), *((arm.title, found) for arm, found in shown)]:
        rows.append(
            [
                *(title, percent(found.final), percent(found.area)),
                "" if found is prime else points(found.area - prime.area),
                points(found.area - results.outcome.area),
                _text(_last_third(found, "prm/pair_accuracy")),
                _before_and_along(found, "advantage/step_auroc")[1],
            ]
        )
    better = [title for (title, *_), (_, found) in zip(rows[1:], shown, strict=True) if _above(found.area - prime.area)]
    verdict = f"Of {len(shown)} changes, these are shown to help: {', '.join(better) or 'none'}."
    text = (
        "PRIME as published, on a policy and a PRM of 1 M parameters, with one option changed at a time. Differences "
        "are in points of the mean pass@1. `no process rewards` keeps PRIME's filter of prompts and its whitening. The "
        "PRM trained beforehand has beta = 2: compare it with that row, too."
    )
    start = (
        "The PRM of PRIME starts as its own reference: the mean return of its rewards in the first batch is "
        f"{_first(prime, 'prm/return')}, and the advantages there are those of outcomes."
    )
    return Section("E4: what decides it in PRIME?", [text, start], [Table(columns, rows)], verdict=verdict)


def rates(results: Results) -> Section | None:
    """Do outcomes alone have a good learning rate, so that nothing is compared with a weak baseline?"""
    shown = results.of((arms.RATES[0], arms.OUTCOME, arms.RATES[1]))
    if len(shown) < 2:
        return None
    titles = {arms.OUTCOME.name: "outcomes, learning rate 5.0e-4, that of all arms"}
    rows = [[titles.get(arm.name, arm.title), percent(found.final), percent(found.area)] for arm, found in shown]
    better = [titles.get(arm.name, arm.title) for arm, found in shown if _above(found.area - results.outcome.area)]
    verdict = f"Rates that are shown to be better for outcomes alone: {', '.join(better) or 'none'}."
    text = (
        "A comparison with outcomes alone is fair only if no other rate is better for them, on the same dev problems."
    )
    return Section(
        "The policy's learning rate", [text], [Table(["", "final pass@1", "mean pass@1"], rows)], verdict=verdict
    )


def times(one: Interval) -> str:
    """A ratio with its interval; `never` for an infinite one."""
    return _shown(one, lambda number: "never" if np.isinf(number) else f"{number:.2f}")


def percent(values: Floats) -> str:
    """The mean over seeds in per cent, with its interval."""
    return _text(values, 100)


def points(values: Floats) -> str:
    """A mean difference over seeds in points, with its interval."""
    return _points(mean_interval(values))


def _points(one: Interval) -> str:
    return _shown(one, lambda number: f"{100 * number:+.1f}")


def _signed(values: Floats) -> str:
    return _shown(mean_interval(values), lambda number: f"{number:+.3f}")


def _text(values: Floats, scale: float = 1) -> str:
    places = 1 if scale == 100 else 3
    return _shown(mean_interval(values), lambda number: f"{scale * number:.{places}f}")


def _shown(one: Interval, text: Callable[[float], str]) -> str:
    """A value with its interval, if it has one; `-` for no value."""
    if np.isnan(one.value):
        return "-"
    return text(one.value) if np.isnan(one.low) else f"{text(one.value)} [{text(one.low)}, {text(one.high)}]"


def _title(name: str) -> str:
    return next(arm.title for arm in arms.ARMS if arm.name == name)


def _reached(found: Arm, level: float) -> str:
    mean = curves.rollouts_to(level, found.rollouts, found.accuracy.mean(0)[None])[0]
    number = np.isfinite(curves.rollouts_to(level, found.rollouts, found.accuracy)).sum()
    text = "never" if np.isinf(mean) else f"{mean:,.0f}"
    return f"{text} ({number}/{len(found.logs)})"


def _along(found: Arm, name: str, where: Callable[[Floats], Floats]) -> Floats:
    """[seeds] mean of a metric over the steps that `where` selects; NaN if it is not logged."""
    logged = found.logged(name)
    if logged is None:
        return np.full(len(found.logs), np.nan)
    chosen = where(logged)
    counts = (~np.isnan(chosen)).sum(1)
    return np.divide(np.nansum(chosen, 1), counts, out=np.full(len(chosen), np.nan), where=counts > 0)


def _first(found: Arm, name: str, scale: float = 1) -> str:
    return _text(_along(found, name, lambda values: values[:, :1]), scale)


def _last_third(found: Arm, name: str) -> Floats:
    return _along(found, name, lambda values: values[:, -(values.shape[1] // 3) :])


def _rest(found: Arm, name: str) -> Floats:
    return _along(found, name, lambda values: values[:, 1:])


def _before_and_along(found: Arm, name: str, scale: float = 1) -> tuple[str, str]:
    return _first(found, name, scale), _text(_rest(found, name), scale)


def _above(values: Floats) -> bool:
    return mean_interval(values).low > 0
