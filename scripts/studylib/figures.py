"""The study's figures, made with matplotlib. They are legible at the width of a page and without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studylib.cells import RESPONSES, SHARES, Grid
from studylib.claims import Claim, Read
from studylib.measures import BEST, VOTE, Measure

# Okabe and Ito's palette for colour-blind readers; lines also differ in marker and style.
_STYLES = {"ce": ("#0072B2", "o-"), "dpo": ("#D55E00", "s--"), "nca": ("#009E73", "^-."), "kto": ("#CC79A7", "D:")}
_GREY, _EXPLICIT = "#777777", "#E69F00"


def draw(claim: Claim, grid: Grid, read: Read) -> Figure | None:
    """The figure of a claim, or None if it has none."""
    if claim.figure == "scorers":
        return scorers(claim.rows, grid, read)
    if claim.figure == "responses":
        last = grid.world.responses
        return growth([(k, f"_k{k}") for k in RESPONSES if k < last], last, "responses to a prompt", grid, read)
    if claim.figure == "prompts":
        return growth([(share, f"_p{share}") for share in SHARES], 100, "prompts (%)", grid, read)
    return votes(claim.rows, grid, read) if claim.figure == "votes" else None


def scorers(names: Sequence[str], grid: Grid, read: Read) -> Figure:
    """Best-of-N of every scorer with its interval, the best on top; random pick, majority vote and oracle as lines."""
    shown = [(name, figures[BEST]) for name in names if (figures := read(name)) is not None]
    shown.sort(key=lambda one: one[1].values.mean())
    figure = Figure(figsize=(7.2, 0.34 * len(shown) + 1.5), layout="constrained")
    axes = figure.subplots()
    for place, (name, measure) in enumerate(shown):
        colour, marker = (_STYLES[name][0], "o") if name in _STYLES else (_EXPLICIT, "s")
        _bar(axes, measure, place, colour, marker)
    axes.set_yticks(range(len(shown)), [grid[name].title for name, _ in shown])
    for name, label, line in (
        ("random", "random pick", ":"),
        ("majority", "majority vote", "--"),
        ("oracle", "oracle", "-."),
    ):
        value = 100 * float(shared(grid, read)[name].values.mean())
        axes.axvline(value, color=_GREY, linestyle=line, linewidth=1.2, label=label)
    axes.set_xlabel(f"accuracy (%), mean of {_sizes(grid)}; bars are 95 % intervals")
    axes.grid(alpha=0.25, axis="x")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return figure


def growth(points: Sequence[tuple[int, str]], last: int, label: str, grid: Grid, read: Read) -> Figure:
    """Best-of-N of CE and DPO against the amount of data.

    Args:
        points: amounts, with the suffix of their cells' names.
        last: the amount of the cells `ce` and `dpo`, which use all data.
        label: of the horizontal axis.
        grid: the study's cells.
        read: returns the measures of a cell.
    """
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for loss in ("ce", "dpo"):
        found = [(at, read(loss + suffix)) for at, suffix in points] + [(last, read(loss))]
        known = [(at, figures[BEST]) for at, figures in found if figures is not None]
        _band(axes, known, loss, loss.upper())
    base = 100 * float(shared(grid, read)["random"].values.mean())
    axes.axhline(base, color=_GREY, linestyle=":", linewidth=1)
    axes.annotate("random pick", (1, base), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    if last <= 64:
        axes.set_xscale("log", base=2)
    ticks = [at for at, _ in points] + [last]
    axes.set_xticks(ticks, [str(at) for at in ticks])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.set_ylabel("best-of-N accuracy (%)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def votes(names: Sequence[str], grid: Grid, read: Read) -> Figure:
    """Best-of-N and weighted vote, a row per loss, with the plain majority vote as a vertical line."""
    names = [name for name in names if name in grid]
    figure = Figure(figsize=(7.2, 0.5 * len(names) + 1.4), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(reversed(names)):
        figures = read(name)
        if figures is not None:
            _bar(axes, figures[BEST], place + 0.15, _STYLES["ce"][0], "o", "best-of-N" if not place else "")
            _bar(axes, figures[VOTE], place - 0.15, _STYLES["dpo"][0], "s", "weighted vote" if not place else "")
    plain = 100 * float(shared(grid, read)["majority"].values.mean())
    axes.axvline(plain, color=_GREY, linestyle=":", linewidth=1.4, label="plain majority vote")
    axes.set_yticks(range(len(names)), [grid[name].title for name in reversed(names)])
    axes.set_xlabel(f"accuracy (%), mean of {_sizes(grid)}; bars are 95 % intervals")
    axes.grid(alpha=0.25, axis="x")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return figure


def shared(grid: Grid, read: Read) -> Mapping[str, Measure]:
    """Measures that do not depend on the cell: majority vote, random pick, oracle."""
    return next(figures for cell in grid.cells if (figures := read(cell.name)) is not None)


def _bar(axes: Axes, measure: Measure, place: float, colour: str, marker: str, label: str = "") -> None:
    one = measure.interval()
    errors = [[100 * (one.value - one.low)], [100 * (one.high - one.value)]]
    axes.errorbar([100 * one.value], [place], xerr=errors, color=colour, fmt=marker, capsize=3, label=label)


def _band(axes: Axes, known: Sequence[tuple[int, Measure]], loss: str, label: str) -> None:
    intervals = [measure.interval() for _, measure in known]
    colour, style = _STYLES[loss]
    at = [place for place, _ in known]
    axes.plot(at, [100 * one.value for one in intervals], style, color=colour, label=label, linewidth=2)
    low, high = ([100 * getattr(one, end) for one in intervals] for end in ("low", "high"))
    axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)


def _sizes(grid: Grid) -> str:
    return "best-of-" + "/".join(str(n) for n in grid.world.sizes)
