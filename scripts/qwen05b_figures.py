"""Draw the figures of docs/results/qwen05b-gsm8k.md from the results of scripts/qwen05b_gsm8k.py, as far as they go.

    python scripts/qwen05b_figures.py --out outputs/qwen05b --images docs/images

Solutions are not chosen by hand: of each of the first five test problems with correct and incorrect responses, the one
that cross-entropy selects.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from implicit_prm.data.groups import load_groups
from implicit_prm.evaluation.figures import new_figure, save
from implicit_prm.rewards.implicit_reward import aggregate
from implicit_prm.scoring.store import read_scores
from implicit_prm.types import Group, StepScores
from implicit_prm.utils.colors import Scale

MODELS = {"ce": ("cross-entropy", "-"), "dpo": ("DPO", "--"), "shuffled": ("shuffled labels", ":")}
BASELINES = {"majority vote": "-.", "random pick": (0, (5, 1)), "oracle (pass@N)": (0, (1, 2))}
SOLUTIONS = 5
WIDTH = 118  # characters of a line
LINE = 0.19  # inches


@dataclass(frozen=True)
class Line:
    """A line of the figure of solutions; `colour` is that of its background."""

    text: str
    value: str = ""
    colour: str | None = None
    bold: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/qwen05b"), help="folder of the results")
    parser.add_argument("--images", type=Path, default=Path("docs/images"), help="folder for the figures")
    options = parser.parse_args()
    results = {name: options.out / name / "eval-test_mixed" for name in MODELS}
    found = {name: folder for name, folder in results.items() if (folder / "metrics.json").exists()}
    save(accuracy(found), options.images / "qwen05b-accuracy.png")
    if "ce" in found:
        save(solutions(options.out / "test_mixed.jsonl", found["ce"]), options.images / "qwen05b-solutions.png")


def accuracy(results: dict[str, Path]) -> Figure:
    """Accuracy against N on the test problems, with 95 % intervals over problems."""
    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    metrics = {name: json.loads((folder / "metrics.json").read_text("utf-8")) for name, folder in results.items()}
    for name, one in metrics.items():
        title, style = MODELS[name]
        _curve(axes, next(iter(one["accuracy"].values())), f"best of N, {title}", style)
    for name, style in BASELINES.items():
        _curve(axes, next(iter(metrics.values()))["accuracy"][name], name, style)
    sizes = next(iter(metrics.values()))["sizes"]
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, map(str, sizes))
    axes.set_xlabel("N")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8.5)
    return figure


def _curve(axes: Any, by_size: dict[str, dict[str, float]], label: str, style: Any) -> None:
    sizes = [int(size) for size in by_size]
    value, low, high = ([100 * one[end] for one in by_size.values()] for end in ("value", "low", "high"))
    (line,) = axes.plot(sizes, value, linestyle=style, label=label, linewidth=1.8)
    axes.fill_between(sizes, low, high, color=line.get_color(), alpha=0.1, linewidth=0)


def solutions(candidates: Path, folder: Path) -> Figure:
    """The selected solutions, each step on the colour of its reward."""
    groups = load_groups(str(candidates))
    scored = list(zip(groups, read_scores(folder, groups), strict=True))[:SOLUTIONS]
    chosen = [(group, selected(group, scores)) for group, scores in scored]
    scale = Scale.of("log_ratio", [value for _, one in chosen for value in one.step_rewards])
    lines = [line for group, one in chosen for line in _lines(group, one, scale)]
    figure = new_figure(10.5, LINE * (len(lines) + 1))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(lines), 0)
    for place, line in enumerate(lines):
        if line.colour:
            axes.axhspan(place, place + 1, color=line.colour, linewidth=0)
        style = {"family": "monospace", "fontsize": 7.5, "va": "center", "parse_math": False}
        axes.text(0.065, place + 0.5, line.text, weight="bold" if line.bold else "normal", **style)
        axes.text(0.055, place + 0.5, line.value, ha="right", **style)
    return figure


def selected(group: Group, scores: Sequence[StepScores]) -> StepScores:
    """The response that best-of-N selects: of those that were not cut off, the one with the highest lowest step."""
    finished = [one for one, done in zip(scores, group.finished, strict=True) if done]
    return max(finished, key=lambda one: aggregate(one, "min"))


def _lines(group: Any, one: StepScores, scale: Scale) -> Iterator[Line]:
    question = group.prompt if isinstance(group.prompt, str) else group.prompt[-1]["content"]
    for text in textwrap.wrap(question.split("\n\nPlease reason")[0], WIDTH):
        yield Line(text, bold=True)
    for text, value in zip(one.steps, one.step_rewards, strict=True):
        shown = [part for line in text.strip().splitlines() for part in textwrap.wrap(line, WIDTH)]
        for number, part in enumerate(shown):
            yield Line(part, scale.number(value) if number == 0 else "", scale.colour(value))
    right = group.correctness[one.index]
    yield Line(f"final answer {'correct' if right else 'incorrect'} (expected {group.answer})")
    yield Line("")


if __name__ == "__main__":
    main()
