"""The sections of the report: E1 to E4, with tables, curves and verdicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from studylib.report import Section, Table

from rllib import arms, curves, figures
from rllib.curves import Arm, Floats, mean_interval
from rllib.results import GOAL, Results
from rllib.texts import decimal, interval_points, percent, points, signed, times


def sections(results: Results) -> list[Section]:
    """The sections of the experiments for which there are runs."""
    first = (learning(results), confirmation(results), control(results), blame(results))
    made = (*first, drift(results), changes(results), rates(results), default(results))
    return [one for one in made if one is not None]


def headline(results: Results) -> str:
    """Whether a dense reward that can be had without exact step labels reaches the goal."""
    chosen = results.choice
    if chosen is None:
        return "No dense reward that can be had without exact step labels was tried."
    what = "the final accuracy of outcomes alone"
    if np.isinf(chosen.ratio.value):
        return f"No dense reward of {chosen.tried} that were tried reaches {what} within a run.{_faster(results)}"
    one = chosen.decisive
    if one.high < 1 and one.value <= GOAL:
        start = f"A dense reward reaches {what} in"
    elif one.high < 1:
        start = f"No dense reward is shown to reach {what} in {GOAL:.0%} of the rollouts; the best needs"
    else:
        start = f"No dense reward is shown to reach {what} in fewer rollouts; the best needs"
    cost = f", without the {arms.PRM_RESPONSES:,} responses of its PRM's training" if chosen.arm.trained_prm else ""
    needs = "more than a run" if np.isinf(one.value) else f"{times(one)} of the rollouts{cost}"
    how = f"the best of {chosen.tried} that were tried"
    if chosen.new_ratio is not None:
        how += f", where it needed {times(chosen.ratio)}, run again with new seeds"
    return f"{start} {needs} ({chosen.arm.label}; {how}).{_faster(results)}"


def _faster(results: Results) -> str:
    """A sentence if outcomes alone have a better learning rate than that of all arms."""
    if not any(curves.above(found.area - results.outcome.area) for _, found in results.of(arms.RATES)):
        return ""
    return " Outcomes alone learn faster with another learning rate, which no dense reward was tried with."


def learning(results: Results) -> Section:
    """E1: accuracy along training."""
    columns = ["", "final pass@1", "mean pass@1", "difference from outcomes"]
    columns += [f"to {level:.0%}" for level in results.levels] + ["ratio to outcomes' final", "reached"]
    rows = []
    for arm, found in results.of(arms.E1):
        ratio = results.ratios[arm.name]
        rows.append(
            [
                *(arm.title, percent(found.final), percent(found.area)),
                "" if arm is arms.OUTCOME else points(found.area - results.outcome.area),
                *(_reached(found, level) for level in results.levels),
                "1" if arm is results.best_outcome else times(ratio.interval),
                f"{ratio.reached:.0%}",
            ]
        )
    text = (
        "Final pass@1 is the mean of the last three evaluations, mean pass@1 the mean over the run (the area under the "
        "curve), in per cent. `to 50%`: the rollouts after which the mean curve of an arm reaches 50 %, and how many "
        "of its seeds do. The difference is in points of the mean pass@1, from leave-one-out. The ratio: the rollouts "
        "after which its mean curve reaches the final accuracy of outcomes alone, divided by theirs. They are the "
        f"better of leave-one-out and GRPO: `{results.best_outcome.title}`. A curve that does not reach it counts as "
        "infinite, also in the bootstrap; `reached` is the share of resamples that do. Curves are averaged over three "
        "evaluations first."
    )
    times_a_run = arms.PRM_RESPONSES / results.size.rollouts
    critic = (
        "The PRM as critic does not reward: the sigmoid of its partial sums, with the log-odds of the prompt's "
        "accuracy, is the value before a step, which is subtracted from the outcome. A lambda below 1 estimates "
        "advantages from the change of the value."
    )
    beforehand = (
        f"The frozen PRM, like that of IPVRM, was trained beforehand on {arms.PRM_RESPONSES:,} graded responses of the "
        f"untrained policy to the same problems. They are {times_a_run:.1f} times the rollouts of a run and are not "
        "counted; outcomes alone learn nothing from them. The PRM of PRIME starts as the policy and has the rollouts "
        "of the run alone. `exact steps` are the checker's, to show what step rewards without errors do."
    )
    shown = [arm for arm in arms.E1 if arm.name in arms.MAIN]
    figure = figures.accuracy([(arm.title, found) for arm, found in results.of(shown)])
    return Section(
        "E1: does it learn faster?",
        [text, critic, beforehand],
        [Table(columns, rows)],
        figure,
        "rl-accuracy",
        headline(results),
    )


def confirmation(results: Results) -> Section | None:
    """The arm that was chosen, with seeds that had no part in the choice."""
    chosen = results.choice
    if chosen is None or chosen.new_ratio is None:
        return None
    outcome, found = (results.new[one.name] for one in results.to_confirm)
    rows = [
        [results.best_outcome.title, percent(outcome.final), percent(outcome.area), "", "1"],
        [chosen.arm.label, percent(found.final), percent(found.area), points(found.area - outcome.area)],
    ]
    rows[1].append(times(chosen.new_ratio))
    text = (
        f"The best of {chosen.tried} dense rewards owes a part of its ratio to the seeds that it was chosen with. Here "
        "it and outcomes alone are run again with new seeds, of the PRM's training, too."
    )
    columns = ["", "final pass@1", "mean pass@1", "difference", "ratio"]
    verdict = f"The ratio was {times(chosen.ratio)} and is {times(chosen.new_ratio)} with new seeds."
    return Section("E1: the best dense reward with new seeds", [text], [Table(columns, rows)], verdict=verdict)


def control(results: Results) -> Section | None:
    """E1's control: is it the place of the rewards that helps?"""
    pairs = [pair for pair in arms.CONTROLS if {*pair} <= results.found.keys()]
    if not pairs:
        return None
    found = [mean_interval(results.found[a].area - results.found[b].area) for a, b in pairs]
    rows = [[_title(a), _title(b), interval_points(one)] for (a, b), one in zip(pairs, found, strict=True)]
    helps = sum(one.low > 0 for one in found)
    verdict = f"In {helps} of {len(found)} comparisons the places of the rewards are shown to help."
    text = (
        "The frozen PRM's rewards in a random order within each response, of its steps or of its tokens, have the same "
        "number and size. If they do as well, what the PRM knows of single steps does not help. The difference of the "
        "mean pass@1 is that of the PRM's order from the random one."
    )
    table = Table(["", "shuffled", "difference, points"], rows)
    return Section("E1: the control", [text], [table], verdict=verdict)


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
        "from first wrong ones? Advantages are those of prompts that are trained on. The first batch is of the "
        "untrained policy. Outcomes alone blame all tokens of a wrong response alike. IPVRM's PRM has learned the "
        "outcomes of a batch when it scores it."
    )
    verdict = ""
    outcome = _rest(results.outcome, "advantage/blame")
    found_blame = [
        f"{points(_rest(found, 'advantage/blame') - outcome)} points with {arm.title}"
        for arm, found in results.of((arms.FROZEN, arms.VALUE, arms.EXACT))
    ]
    if found_blame:
        verdict = (
            "The share of the blame that is on the first wrong step, difference from outcomes alone: "
            f"{', '.join(found_blame)}."
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
        cells = [text for name in measures for text in (_first(found, name), decimal(_last_third(found, name)))]
        cells += [
            "" if found is results.outcome else signed(_last_third(found, name) - _last_third(results.outcome, name))
            for name in measures
        ]
        rows.append([title, *cells])
    text = (
        "A PRM that was trained beforehand learns from every batch after it has scored it, at twice the policy's "
        "learning rate as in PRIME. Its rewards are not used, so that all rows see the same rollouts, those of "
        "outcomes alone, and no policy learns to please it. Outcome AUROC: does the PRM rank correct "
        "responses of the batch above wrong ones? Pair accuracy: the same among responses to one prompt, as baselines "
        "subtract the difficulty of a prompt, and ADB leaves it out of the rewards. Step AUROC: does it rank right "
        "steps above first wrong ones?"
    )
    frozen = _last_third(results.outcome, "prm/pair_accuracy")
    differences = [f"{arm.title} {signed(_last_third(one, 'prm/pair_accuracy') - frozen)}" for arm, one in shown]
    verdict = f"Pair accuracy in the last third, difference from the frozen PRM: {', '.join(differences)}."
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
                decimal(_last_third(found, "prm/pair_accuracy")),
                _before_and_along(found, "advantage/step_auroc")[1],
            ]
        )
    better = [
        title for (title, *_), (_, found) in zip(rows[1:], shown, strict=True) if curves.above(found.area - prime.area)
    ]
    verdict = (
        f"PRIME as published differs by {points(prime.area - results.outcome.area)} points from outcomes alone. Of "
        f"{len(shown)} changes, these are shown to help: {', '.join(better) or 'none'}."
    )
    text = (
        "PRIME as published, on a policy and a PRM of 1 M parameters, with one option changed at a time. Differences "
        "are in points of the mean pass@1, from PRIME and from leave-one-out outcomes. `no process rewards` keeps "
        "PRIME's filter of prompts and its whitening. The PRM trained beforehand has beta = 2: compare it with that "
        "row, too."
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
    better = [
        titles.get(arm.name, arm.title) for arm, found in shown if curves.above(found.area - results.outcome.area)
    ]
    verdict = f"Rates that are shown to be better for outcomes alone: {', '.join(better) or 'none'}."
    text = (
        "A comparison with outcomes alone is fair only if no other rate is better for them, on the same dev problems."
    )
    return Section(
        "The policy's learning rate", [text], [Table(["", "final pass@1", "mean pass@1"], rows)], verdict=verdict
    )


def default(results: Results) -> Section | None:
    """What follows for the default of `ipr-rl`."""
    chosen, critic = results.choice, results.found.get(arms.VALUE.name)
    if chosen is None:
        return None
    if chosen.decisive.high < 1:
        verdict = f"Use `ipr-rl {' '.join(chosen.arm.overrides)}` ({chosen.arm.label})."
    elif critic is not None and arms.VALUE.name not in results.new and curves.above(critic.area - results.outcome.area):
        verdict = "Keep the default of `ipr-rl`: it is shown to have a higher mean pass@1 than outcomes alone."
    else:
        verdict = "Use outcomes alone (`ipr-rl arm=outcome`): no dense reward is shown to need fewer rollouts."
    text = (
        "The default of `ipr-rl` is a frozen PRM as the critic, the safe way to use one: a policy cannot gain by "
        "pleasing it, so that no weight has to be found below which the PRM does no harm."
    )
    if critic is not None:
        text += f" Its mean pass@1 differs by {points(critic.area - results.outcome.area)} points from outcomes alone."
    return Section("Which default follows?", [text], verdict=verdict)


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
    return decimal(_along(found, name, lambda values: values[:, :1]), scale)


def _last_third(found: Arm, name: str) -> Floats:
    return _along(found, name, lambda values: values[:, -(values.shape[1] // 3) :])


def _rest(found: Arm, name: str) -> Floats:
    return _along(found, name, lambda values: values[:, 1:])


def _before_and_along(found: Arm, name: str, scale: float = 1) -> tuple[str, str]:
    return _first(found, name, scale), decimal(_rest(found, name), scale)
