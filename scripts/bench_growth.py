"""Time and memory of scoring by size: the official implementation and this library, on a small random model.

    python scripts/bench_growth.py     # docs/images/growth.png and outputs/growth.json, under three minutes

Four sizes grow from a base case, one at a time: the prompt, the number of responses, the vocabulary, and the response.
The model is small, so that the sizes rather than the hardware determine the result. Log-ratios are checked at every
point.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch
from bench_scoring import agreement, variants
from benchlib import measure, report, work
from benchlib.official import Models
from benchlib.rivals import UnavailableError
from benchlib.run import progress
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from implicit_prm.models import loading
from implicit_prm.models.source import ModelSource
from implicit_prm.utils.io import atomic_write, write_json


@dataclass(frozen=True)
class Size:
    """A case: prompt tokens, number of responses, vocabulary size, mean response tokens."""

    prompt: int = 64
    responses: int = 8
    vocabulary: int = 8192
    response: int = 64


AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "prompt": ("prompt (tokens)", (64, 256, 1024)),
    "responses": ("responses to a prompt", (1, 4, 16, 64)),
    "vocabulary": ("vocabulary", (8192, 32768, 131072, 262144)),
    "response": ("mean response (tokens)", (64, 256, 1024)),
}
# Scoring variant: colour (Okabe and Ito's palette for colour-blind readers), marker, line.
LINES = {
    "official": ("#D55E00", "o", "-"),
    "ours, neither cached nor shared": ("#E69F00", "^", ":"),
    "ours, reference not cached": ("#009E73", "D", "--"),
    "ours": ("#0072B2", "s", "-"),
}


@dataclass(frozen=True)
class Point:
    """A variant at a size: medians over rounds. `peak_bytes` is None where memory cannot be measured."""

    axis: str
    size: Size
    variant: str
    seconds: float
    peak_bytes: float | None


def measure_at(
    axis: str,
    size: Size,
    models: Models,
    tokenizer: PreTrainedTokenizerBase,
    rounds: int,
    say: Callable[[str], None],
) -> list[Point]:
    """Check all variants at one size, then time them in turns."""
    at = f"{AXES[axis][0]} = {getattr(size, axis)}"
    say(at)
    found = work.generate(tokenizer, (size.prompt, size.response), 1, size.responses, seed=0)
    check, calls = agreement("float32", []), {}
    for name, make in variants(models, tokenizer, found).items():
        if name in LINES:
            try:
                variant = make()
            except UnavailableError:
                continue
            check(name, variant)
            calls[name] = variant.run
    timed = measure.interleave(calls, rounds, 0, "cpu", torch.float32, lambda what: say(f"{at}, {what}"))
    if timed.interrupted:
        raise KeyboardInterrupt
    points = []
    for name in calls:
        peaks = [one.peak_bytes for one in timed.of(name) if one.peak_bytes is not None]
        seconds = median(one.seconds for one in timed.of(name))
        points.append(Point(axis, size, name, seconds, median(peaks) if peaks else None))
    return points


def sweep(axes: Mapping[str, Sequence[int]], rounds: int, console: Console) -> Iterator[list[Point]]:
    """Measure every value of every axis, with the other three at their base value."""
    tokenizer = loading.open_tokenizer(ModelSource.resolve("sandbox"))
    sizes = [(axis, replace(Size(), **{axis: value})) for axis, values in axes.items() for value in values]
    made: dict[int, Models] = {}
    with progress(console) as say:
        for axis, size in sizes:
            if size.vocabulary not in made:
                made = {size.vocabulary: _models(tokenizer, size.vocabulary)}
            yield measure_at(axis, size, made[size.vocabulary], tokenizer, rounds, say)


def _models(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> Models:
    def model(seed: int) -> PreTrainedModel:
        return work.random_model(tokenizer, vocabulary, layers=4, seed=seed)

    return Models(model(0), model(1), tokenizer.pad_token_id or 0, beta=0.05)


def draw(points: Sequence[Point], path: Path) -> None:
    """Plot seconds (above) and peak memory (below), one column per axis."""
    axes = [axis for axis in AXES if any(point.axis == axis for point in points)]
    with rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(3 * len(axes), 5.2))
        grid = figure.subplots(2, len(axes), sharex="col", sharey="row", squeeze=False)
        for column, axis in enumerate(axes):
            for name, (colour, marker, line) in LINES.items():
                series = [point for point in points if (point.axis, point.variant) == (axis, name)]
                style = {"color": colour, "marker": marker, "linestyle": line, "label": name, "markersize": 5}
                sizes = [getattr(point.size, axis) for point in series]
                if series:
                    grid[0, column].plot(sizes, [point.seconds for point in series], **style)
                    megabytes = [float("nan") if p.peak_bytes is None else p.peak_bytes / 1e6 for p in series]
                    grid[1, column].plot(sizes, megabytes, **style)
            values = sorted({getattr(point.size, axis) for point in points if point.axis == axis})
            for panel in grid[:, column]:
                panel.set(xscale="log", yscale="log")
                panel.grid(alpha=0.3)
                panel.yaxis.set_major_formatter("{x:g}")
            grid[1, column].set_xlabel(AXES[axis][0])
            grid[1, column].set_xticks(values, [f"{v // 1024}k" if v >= 8192 else str(v) for v in values])
            grid[1, column].minorticks_off()
        grid[0, 0].set_ylabel("seconds")
        grid[1, 0].set_ylabel("peak memory (MB)")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False)
        figure.tight_layout(rect=(0, 0, 1, 0.94))
        with atomic_write(path) as stream:
            figure.savefig(stream, dpi=150, format="png")


def run(axes: Mapping[str, Sequence[int]], rounds: int, figure: Path, data: Path, console: Console) -> list[Point]:
    """Measure, then write figure and JSON. Ctrl-C writes the points measured so far."""
    logging.set_verbosity_error()  # the sandbox's tokenizer warns about texts longer than its model's context
    points: list[Point] = []
    try:
        for found in sweep(axes, rounds, console):
            points += found
    except KeyboardInterrupt:
        if not points:
            raise SystemExit("interrupted before the first measurement") from None
        console.print("interrupted; writing the points measured so far")
    draw(points, figure)
    write_json(
        data,
        {
            "machine": report.machine(),
            "command": report.command(),
            "base": asdict(Size()),
            "points": [asdict(point) for point in points],
        },
    )
    console.print(f"{len(points)} points: {figure}, {data}")
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--figure", type=Path, default=Path("docs/images/growth.png"))
    parser.add_argument("--json", type=Path, default=Path("outputs/growth.json"))
    parser.add_argument("--redraw", type=Path, metavar="JSON", help="redraw the figure of an earlier run")
    chosen = parser.parse_args()
    if chosen.redraw:
        points = json.loads(chosen.redraw.read_text(encoding="utf-8"))["points"]
        draw([Point(**{**point, "size": Size(**point["size"])}) for point in points], chosen.figure)
        return
    run({axis: values for axis, (_, values) in AXES.items()}, chosen.rounds, chosen.figure, chosen.json, Console())


if __name__ == "__main__":
    main()
