"""Run the paper's study: train all models and baselines, test every claim, and write the report.

    python scripts/study.py                                   # the sandbox, 5 training seeds, 90 minutes at most
    python scripts/study.py --quick                           # one seed, fewer problems: 15 minutes at most
    python scripts/study.py --model Qwen/Qwen2.5-0.5B-Instruct --out outputs/study-qwen

The first command writes docs/study.md; the others write study.md in --out. All write report.html in --out.

All models are compared on the same responses, labels, reference log-probabilities and candidates; `studylib/cells.py`
defines them. Finished tasks are kept in --out: after an interruption, or with more seeds, the same command resumes. If
a task fails, those that do not need it still run, and the report leaves out its cell; the same command tries it again.
Arguments after `--` are overrides for all training runs:

    python scripts/study.py --quick -- trainer.num_train_epochs=1
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from benchlib.report import machine
from studylib.cells import Grid, World, grid
from studylib.claims import CLAIMS
from studylib.costs import costs
from studylib.measures import Measure, read
from studylib.report import method, sections, seeds, write_html, write_markdown
from studylib.tasks import run

from implicit_prm import ImplicitPRMError

# What the sandbox's figures do and do not show.
NOTES = (
    "A sandbox proves nothing about large models, least of all how far one method is ahead of another. Its policy "
    "errs on single facts, for which it knows two values. An implicit PRM has both as probabilities of the same "
    "token and only has to learn which to trust; a value head must learn the fact itself from a label at the end of "
    "the step. Explicit models therefore get three times the epochs (`configs/tuned/sandbox_explicit.yaml`), and "
    "with more data exact labels close the gap: [Baselines](guides/baselines.md#more-data) has 1,000 problems. "
    "Exact labels judge each step by itself, Math-Shepherd's the solution up to that step, which is harder to read "
    "off. All steps but the last have the same number of tokens.",
)
QUICK = {"problems": 200, "test_problems": 100, "seeds": 1}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox", help="sandbox, a hub id, or a local folder")
    parser.add_argument("--quick", action="store_true", help="one seed and fewer problems")
    parser.add_argument("--seeds", type=int, default=5, help="training seeds (default: 5)")
    parser.add_argument("--problems", type=int, default=World.problems, help="training problems (default: %(default)s)")
    parser.add_argument("--test-problems", type=int, default=World.test_problems, help="(default: %(default)s)")
    parser.add_argument(
        "--test-responses", type=int, default=World.test_responses, help="to each test problem (default: %(default)s)"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="CELL", help="these cells and those they need")
    parser.add_argument(
        "--completions",
        type=int,
        default=World.completions,
        help="per prefix of Math-Shepherd (default: %(default)s)",
    )
    parser.add_argument("--jobs", type=int, help="processes (default: one per core; one with a GPU)")
    parser.add_argument(
        "--out", type=Path, help="folder of the study (default: outputs/study, with --quick outputs/study-quick)"
    )
    parser.add_argument("--report", type=Path, help="Markdown page (default: as above)")
    parser.add_argument("--images", type=Path, help="folder of the figures (default: images, next to the report)")
    parser.add_argument("overrides", nargs="*", help="overrides for all training runs")
    chosen = parser.parse_args()
    if chosen.quick:
        parser.set_defaults(**QUICK)
        chosen = parser.parse_args()
    for name in ("seeds", "problems", "test_problems", "completions"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if chosen.test_responses < 4:
        parser.error("--test-responses must be at least 4, the smallest N of best-of-N")
    chosen.out = chosen.out or Path("outputs/study-quick" if chosen.quick else "outputs/study")
    full = chosen.model == "sandbox" and not chosen.quick and not chosen.only
    chosen.report = chosen.report or (Path("docs") if full else chosen.out) / "study.md"
    chosen.images = chosen.images or chosen.report.parent / "images"
    chosen.jobs = chosen.jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    return chosen


def main() -> None:
    chosen = parse()
    world = World(
        chosen.model,
        chosen.problems,
        test_problems=chosen.test_problems,
        test_responses=chosen.test_responses,
        completions=chosen.completions,
        overrides=tuple(chosen.overrides),
    )
    folder = chosen.out.resolve()
    try:
        whole = grid(world, tuple(range(chosen.seeds)), chosen.only)
        seconds, failures = run(whole.tasks(), folder, chosen.jobs)
    except ImplicitPRMError as error:
        sys.exit(f"study: error: {error}\nFinished work is kept; the same command resumes.")
    except KeyboardInterrupt:
        print("\nstudy: interrupted; finished work is kept, and the same command resumes", file=sys.stderr)
        sys.exit(130)

    for failure in failures:
        print(f"study: error: {failure}", file=sys.stderr)
    study = whole.with_results(seconds)
    if not study.cells:
        sys.exit("study: error: no cell has results of all seeds; the same command tries again")

    @functools.cache
    def figures(name: str) -> Mapping[str, Measure] | None:
        return read([folder / task for task in study.measured(study[name])]) if name in study else None

    made = sections(study, figures, costs(study, CLAIMS[0].rows, folder))
    introduction = describe(study, sum(seconds.values()), chosen)
    if missing := [cell.title for cell in whole.cells if cell not in study.cells]:
        introduction.append(f"Left out, since a task failed: {', '.join(missing)}.")
    write_markdown(chosen.report, chosen.images, introduction, made)
    write_html(chosen.out / "report.html", introduction, made)
    print(f"report: {chosen.report}\npage:   {chosen.out / 'report.html'}")
    if failures:
        sys.exit(
            f"study: {len(failures)} failed, see above; the report leaves out their cells, the same command resumes"
        )


def describe(study: Grid, seconds: float, chosen: argparse.Namespace) -> list[str]:
    """Title and introduction."""
    world = study.world
    where = "the sandbox" if world.exact else world.name
    command = "python scripts/study.py" + (" --quick" if chosen.quick else "")
    command += "" if world.exact else f" --model {world.name}"
    return [
        f"# The paper's study on {where}",
        "The claims of Yuan et al. ([arXiv 2412.01981](https://arxiv.org/abs/2412.01981)), each with the result "
        f"here. All models start from the same policy, learn from the same {world.problems} problems x "
        f"{world.responses} responses with the same trainer, and rerank the same {world.test_problems} x "
        f"{world.test_responses}. Results are over {seeds(study)}; a seed decides the order of the data, and which "
        "responses are used where not all are.",
        *(NOTES if world.exact else ()),
        method(study),
        f"Made by `{command}` in {seconds / chosen.jobs / 60:.0f} minutes of {chosen.jobs} processes "
        f"({machine()['cpu']}, {machine()['cores']} cores, torch {torch.__version__}). This page is written by "
        "that command, verdicts included.",
    ]


if __name__ == "__main__":
    main()
