"""Do dense rewards help reinforcement learning? Train a policy in every way, with several seeds, and write the report.

    python scripts/study_rl.py                              # all arms, 5 seeds: two hours on two cores
    python scripts/study_rl.py --quick                      # a third of the arms, 3 seeds, shorter runs: 16 minutes
    python scripts/study_rl.py --only prime prime_warm      # these arms, and `outcome`, which all are compared with

The first command writes docs/rl-study.md, also with more seeds; the others write rl-study.md in --out. All write
report.html in --out.

Every run is one `ipr-rl` command on the sandbox; `rllib/arms.py` defines them. Finished runs are kept in --out: after
an interruption, or with more seeds, the same command resumes. A run that was interrupted starts again, as it is short.
If a run fails, the others still run, and the report leaves out its arm; the same command tries it again.
Arguments after `--` are overrides for all runs. --report-only reports on the arms that have run with all seeds.

If a dense reward is shown to need fewer rollouts than outcomes alone, it is the best of many. So it and outcomes alone
run again with as many new seeds, and these decide.

How long it takes: a run of the full size, 60 steps and 13 evaluations, took 51 to 93 seconds on one of two busy EPYC
cores, 70 in the mean. All 39 arms x 5 seeds, and 5 PRMs that are trained beforehand, are 4 hours of one process, 2 on
two cores; new seeds take 10 minutes more. The quick size has 42 runs of half the length and 3 PRMs: by that it takes 16
minutes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from benchlib.report import command, machine
from rllib import arms
from rllib.curves import Arm
from rllib.report import headline, sections
from rllib.results import Results
from studylib.report import write_html, write_markdown
from studylib.tasks import Task, finished, run

from implicit_prm import ImplicitPRMError
from implicit_prm.grading.pool import usable_cores

LEVELS = (0.45, 0.5, 0.55, 0.6)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer arms and seeds, shorter runs")
    parser.add_argument("--seeds", type=int, help=f"(default: {arms.FULL.seeds}, with --quick {arms.QUICK.seeds})")
    parser.add_argument("--steps", type=int, help=f"of a run (default: {arms.FULL.steps}, --quick {arms.QUICK.steps})")
    parser.add_argument("--only", nargs="+", default=[], metavar="ARM", help="these arms and `outcome`")
    parser.add_argument(
        "--levels", nargs="+", type=float, default=LEVELS, help="dev pass@1 to reach (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="processes (default: one per core)")
    parser.add_argument("--out", type=Path, help="(default: outputs/rl-study, with --quick outputs/rl-study-quick)")
    parser.add_argument("--report", type=Path, help="Markdown page (default: as above)")
    parser.add_argument("--images", type=Path, help="folder of the figures (default: images, next to the report)")
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    parser.add_argument("overrides", nargs="*", help="overrides for all runs of ipr-rl")
    chosen = parser.parse_args()
    for name in ("seeds", "steps", "jobs"):
        if getattr(chosen, name) is not None and getattr(chosen, name) < 1:
            parser.error(f"--{name} must be at least 1")
    chosen.out = chosen.out or Path("outputs/rl-study-quick" if chosen.quick else "outputs/rl-study")
    fewer_seeds = chosen.seeds is not None and chosen.seeds < arms.FULL.seeds
    whole = not (chosen.quick or chosen.only or chosen.overrides or chosen.steps or fewer_seeds)
    chosen.report = chosen.report or (Path("docs") if whole else chosen.out) / "rl-study.md"
    chosen.images = chosen.images or chosen.report.parent / "images"
    return chosen


def main() -> None:
    chosen = parse()
    size = arms.QUICK if chosen.quick else arms.FULL
    folder = chosen.out.resolve()
    try:
        selected = arms.selected(chosen.quick, chosen.only)
        size = replace(size, seeds=chosen.seeds or size.seeds, steps=chosen.steps or size.steps)
        tasks = arms.tasks(selected, size, chosen.overrides)
        seconds, failures = do(tasks, folder, chosen)
        results = Results(size, read(selected, size, folder, seconds), chosen.levels)
        if arms.OUTCOME.name not in results.found:
            raise ImplicitPRMError(f"{folder}: `{arms.OUTCOME.name}` has not run with all {size.seeds} seeds")
        if results.to_confirm:
            new = arms.tasks(results.to_confirm, size, chosen.overrides, new=True)
            more, others = do(new, folder, chosen)
            tasks, seconds, failures = [*tasks, *new], seconds | more, [*failures, *others]
            logs = read(results.to_confirm, size, folder, more, new=True)
            results = replace(results, new=logs if len(logs) == len(results.to_confirm) else {})
    except ImplicitPRMError as error:
        sys.exit(f"study_rl: error: {error}\nFinished work is kept; the same command resumes.")
    except KeyboardInterrupt:
        print("\nstudy_rl: interrupted; finished work is kept, and the same command resumes", file=sys.stderr)
        sys.exit(130)
    introduction = describe(results, tasks, seconds, chosen)
    made = sections(results)
    write_markdown(chosen.report, chosen.images, introduction, made)
    write_html(chosen.out / "report.html", introduction, made)
    print(f"report: {chosen.report}\npage:   {chosen.out / 'report.html'}")
    if failures:
        sys.exit(
            f"study_rl: {len(failures)} failed, see above; the report leaves out their arms, the same command resumes"
        )


def do(tasks: list[Task], folder: Path, chosen: argparse.Namespace) -> tuple[dict[str, float], list[str]]:
    """Run tasks, or with --report-only find those that are done: their seconds, and a message for each that failed."""
    seconds, failures = (finished(tasks, folder), []) if chosen.report_only else run(tasks, folder, chosen.jobs)
    for failure in failures:
        print(f"study_rl: error: {failure}", file=sys.stderr)
    return seconds, failures


def read(
    some: list[arms.Arm], size: arms.Size, folder: Path, seconds: dict[str, float], new: bool = False
) -> dict[str, Arm]:
    """The logs of the arms that have run with all seeds, by name."""
    runs = {arm.name: arms.runs(arm, size, new) for arm in some}
    return {
        name: Arm.read([folder / run for run in names]) for name, names in runs.items() if seconds.keys() >= set(names)
    }


def describe(results: Results, tasks: list[Task], seconds: dict[str, float], chosen: argparse.Namespace) -> list[str]:
    """Title and introduction."""
    size, names = results.size, {task.name for task in tasks}
    missing = len(names) - len(seconds)
    paragraphs = [
        "# Dense rewards for reinforcement learning on the sandbox",
        headline(results),
        f"All arms train the sandbox's policy on the same problems: {size.steps} steps of {arms.ROLLOUTS_PER_STEP} "
        f"rollouts, {size.rollouts:,} in all, evaluated every {size.eval_steps} steps on {size.dev_problems} dev "
        f"problems x {arms.DEV_RESPONSES} responses. Seeds: {size.seeds}. The policy's learning rate is the default of "
        "`ipr-rl`. Intervals are 95 % bootstraps over seeds, paired by seed, with percentiles that are expanded for "
        "their small number. They do not cover the choice of the dev problems, nor that many arms are compared. A "
        "sandbox proves nothing about large models.",
        f"Made by `{command()}` in {sum(seconds.values()) / 3600:.1f} hours of one process "
        f"({machine()['cpu']}, torch {torch.__version__}). This page is written by that command, verdicts included.",
    ]
    if missing:
        paragraphs.append(f"{missing} of {len(names)} runs are missing; arms without all their seeds are left out.")
    return paragraphs


if __name__ == "__main__":
    main()
