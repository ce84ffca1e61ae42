"""The study's report, with a section per claim: a Markdown page, and an HTML page without external files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from implicit_prm.evaluation.figures import embedded, png
from implicit_prm.evaluation.html.render import write_page
from implicit_prm.evaluation.statistics import Interval
from implicit_prm.utils.io import atomic_write
from studylib.cells import Grid
from studylib.claims import CLAIMS, MARGIN, VARIANTS, Claim, Comparison, Read, overall
from studylib.costs import Cost
from studylib.figures import draw, shared
from studylib.measures import AUROC, BEST, FIRST_ERROR, RESAMPLES, VOTE

# Operations of a cell relative to implicit CE, without the sampling of responses, in the paper.
PAPER_RATIOS = {"ms_hard": 38.8, "autopsv": 4.3}
_NAMES = {BEST: "best-of-N", VOTE: "weighted vote", "majority": "majority vote", "random": "random pick"}


@dataclass(frozen=True)
class Table:
    """A table of texts. The first column names the row."""

    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Section:
    """A section of the report. The figure's file is `study-{figure_name}.png`."""

    title: str
    paragraphs: list[str]
    tables: list[Table] = field(default_factory=list)
    figure: Figure | None = None
    figure_name: str = ""
    verdict: str = ""


def sections(grid: Grid, read: Read, costs: Mapping[str, Cost]) -> list[Section]:
    """The sections of the report, in order."""
    return [
        _scorers(grid, read, costs),
        *(made for claim in CLAIMS if (made := _claim(claim, grid, read)) is not None),
        _cost_section(grid, costs),
        _variants(grid, read),
    ]


def summary(made: Sequence[Section]) -> Table:
    """A table of the claims and their verdicts."""
    return Table(["claim", "here"], [[one.title, one.verdict] for one in made if one.verdict])


def write_markdown(path: Path, images: Path, introduction: Sequence[str], made: Sequence[Section]) -> None:
    """Write the page to `path`, and its figures as PNG files to `images`."""
    lines = [introduction[0], "", *_spaced(introduction[1:]), *_markdown(summary(made)), ""]
    for section in made:
        lines += [f"## {section.title}", ""]
        if section.verdict:
            lines += [f"**{section.verdict}**", ""]
        lines += _spaced(section.paragraphs)
        if section.figure is not None:
            file = images / f"study-{section.figure_name}.png"
            with atomic_write(file) as stream:
                stream.write(png(section.figure))
            lines += [f"![{section.title}]({_relative(file, path.parent)})", ""]
        for table in section.tables:
            lines += [*_markdown(table), ""]
    text = "\n".join(lines).rstrip() + "\n"
    guides = _relative(Path(__file__).resolve().parents[2] / "docs" / "guides", path.parent)
    with atomic_write(path) as stream:
        stream.write(text.replace("](guides/", f"]({guides}/").encode())


def write_html(path: Path, introduction: Sequence[str], made: Sequence[Section]) -> None:
    """Write the page as one HTML file with embedded figures."""
    title = introduction[0].lstrip("# ")
    write_page(
        path,
        "study.html",
        title=title,
        introduction=[_plain(text) for text in introduction[1:] if not text.startswith("```")],
        summary=summary(made),
        sections=[(section, [_plain(text) for text in section.paragraphs]) for section in made],
        figures={section.figure_name: embedded(section.figure) for section in made if section.figure is not None},
    )


def _scorers(grid: Grid, read: Read, costs: Mapping[str, Cost]) -> Section:
    sizes, (unit, scale) = [str(n) for n in grid.world.sizes], _unit(costs)
    columns = ["scorer", *(f"best of {n}" for n in sizes), f"95 % at {sizes[-1]}", f"vote of {sizes[-1]}"]
    columns += ["step AUROC", "first error found", unit]
    rows = []
    for name in dict.fromkeys([*CLAIMS[0].rows, "likelihood"]):
        figures = read(name)
        if figures is None:
            continue
        best = [figures[f"{BEST}/{n}"].interval() for n in sizes]
        row = [grid[name].title, *(_percent(one) for one in best), _band(best[-1])]
        row.append(_percent(figures[f"{VOTE}/{sizes[-1]}"].interval()))
        row.append(_decimal(figures[AUROC].interval()) if AUROC in figures else "-")
        row.append(_with_band(figures[FIRST_ERROR].interval()) if FIRST_ERROR in figures else "-")
        rows.append([*row, f"{costs[name].total / scale:.3g}" if name in costs else "0"])
    baselines = shared(grid, read)
    for name, title in (("majority", "majority vote"), ("random", "random pick"), ("oracle", "oracle (pass@N)")):
        found = [baselines[f"{name}/{n}"].interval() for n in sizes]
        rows.append([title, *(_percent(one) for one in found), _band(found[-1]), "-", "-", "-", "0"])
    world = grid.world
    text = (
        f"All on the same {world.test_problems} held-out problems x {world.test_responses} responses, in per "
        f"cent, means over {seeds(grid)}. Process reward models select by their lowest step, the outcome reward model "
        f"by its one score, the likelihood by its sum. {unit}: 1e{len(str(int(scale))) - 1} floating-point operations "
        "of sampling, labelling and training together. An outcome reward model has no step scores."
    )
    return Section("Scorers side by side", [text], [Table(columns, rows)])


def _claim(claim: Claim, grid: Grid, read: Read) -> Section | None:
    """The section of a claim; None if the study lacks the cells that decide it."""
    found = [(test, difference) for test in claim.tests if (difference := test.difference(read)) is not None]
    if not found:
        return None
    verdicts = [test.verdict(difference) for test, difference in found]
    rows = [
        [_label(test, grid), _signed(difference), _expected(test), verdict]
        for (test, difference), verdict in zip(found, verdicts, strict=True)
    ]
    shown = Table(["", "best-of-N", "weighted vote", "step AUROC"], [])
    for name in claim.rows:
        figures = read(name)
        if figures is not None:
            auroc = _decimal(figures[AUROC].interval()) if AUROC in figures else "-"
            cells = [_with_band(figures[BEST].interval()), _with_band(figures[VOTE].interval()), auroc]
            shown.rows.append([grid[name].title, *cells])
    tests = Table(["difference, points of accuracy", "95 %", "claim", ""], rows)
    verdict = overall(verdicts)
    holding = f"{verdicts.count('holds')} of {len(verdicts)} differences"
    sentence = f"{verdict[0].upper()}{verdict[1:]} on {_setting(grid)}: {holding} as claimed."
    paragraphs = [claim.says, f"The paper: {claim.paper}"]
    return Section(claim.title, paragraphs, [shown, tests], draw(claim, grid, read), claim.figure or "", sentence)


def _cost_section(grid: Grid, costs: Mapping[str, Cost]) -> Section:
    unit, scale = _unit(costs)
    columns = ["", "epochs", "sampling", "labels", "training", "together", "without sampling", "one candidate's score"]
    rows = [
        [
            grid[name].title,
            f"{one.epochs:.3g}",
            *(f"{value / scale:.3g}" for value in (one.rollouts, one.labels, one.training, one.total, one.collected)),
            f"{one.scoring / 1e6:.3g} MFLOPs",
        ]
        for name, one in costs.items()
    ]
    text = (
        f"In {unit}, counted from the tokens of the runs of the first seed; `implicit_prm/costs/ledger.py` "
        "documents what is counted."
    )
    paragraphs = [text]
    for name, paper in PAPER_RATIOS.items():
        if name in costs and "ce" in costs:
            total, collected = costs[name].total / costs["ce"].total, costs[name].collected / costs["ce"].collected
            paragraphs.append(
                f"{grid[name].title} / implicit CE: {collected:.1f} times the operations without the sampling of "
                f"responses (the paper: {paper}), {total:.1f} times with it."
            )
    paragraphs.append(
        f"A response here has few steps and tokens, so there is less to complete: {grid.world.completions} "
        "completions of every prefix, with shared prefixes counted once."
    )
    return Section("What it costs", paragraphs, [Table(columns, rows)])


def _variants(grid: Grid, read: Read) -> Section:
    rows = []
    for test in VARIANTS:
        difference = test.difference(read)
        if difference is not None:
            first, auroc = read(test.a) or {}, "-"
            if AUROC in first and test.of_a == BEST:
                auroc = _signed(Comparison(test.a, test.b, of_a=AUROC, of_b=AUROC).difference(read), 1)
            rows.append([_label(test, grid), _with_band(first[test.of_a].interval()), _signed(difference), auroc])
    table = Table(["", "accuracy", "difference, points", "difference in step AUROC"], rows)
    text = (
        "Options that the paper does not have, each compared with cross-entropy and with the hyperparameters that were "
        "chosen for cross-entropy. [Variants](guides/variants.md) explains them."
    )
    return Section("Variants beyond the paper", [text], [table])


def seeds(grid: Grid) -> str:
    """The number of seeds in words."""
    return f"{len(grid.seeds)} training seeds" if len(grid.seeds) > 1 else "one training seed"


def _unit(costs: Mapping[str, Cost]) -> tuple[str, float]:
    """The unit of FLOPs and its size: TFLOPs on the sandbox, PFLOPs for larger models."""
    most = max((one.total for one in costs.values()), default=0.0)
    return ("TFLOPs", 1e12) if most < 1e15 else ("PFLOPs", 1e15)


def method(grid: Grid) -> str:
    """A paragraph on the measures, the intervals and the verdicts."""
    what = "seeds and problems, each drawn with replacement" if len(grid.seeds) > 1 else "problems (one seed)"
    return (
        f"Best-of-N is the mean of N = {', '.join(str(n) for n in grid.world.sizes)}, each an expectation over "
        f"all subsets. Intervals are 95 % percentile bootstraps over {what}, {RESAMPLES:,} resamples, the same "
        "for all cells, so that differences are paired. A claim of a gain holds if the interval lies above 0 and does "
        f"not hold if it lies below 0. A claim of no loss (no gain) holds if the interval lies above -{MARGIN * 100:g} "
        f"points (below {MARGIN * 100:g})."
    )


def _label(test: Comparison, grid: Grid) -> str:
    first = grid[test.a].title if test.of_a == BEST else f"{grid[test.a].title}, {_NAMES[test.of_a]}"
    if test.a == test.b:
        return f"{first} - {_NAMES[test.of_b]}"
    second = _NAMES[test.of_b] if test.of_b in ("random", "majority") else grid[test.b].title
    return f"{first} - {second}"


def _expected(test: Comparison) -> str:
    return {"more": "above 0", "not_less": f"above -{MARGIN * 100:g}", "not_more": f"below +{MARGIN * 100:g}"}[
        test.expected
    ]


def _setting(grid: Grid) -> str:
    return "the sandbox" if grid.world.exact else grid.world.name


def _percent(one: Interval) -> str:
    return f"{100 * one.value:.1f}"


def _band(one: Interval) -> str:
    return f"[{100 * one.low:.1f}, {100 * one.high:.1f}]"


def _with_band(one: Interval) -> str:
    return f"{_percent(one)} {_band(one)}"


def _decimal(one: Interval) -> str:
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _signed(one: Interval | None, scale: float = 100) -> str:
    if one is None:
        return "-"
    places = 1 if scale == 100 else 3
    value, low, high = (scale * number for number in (one.value, one.low, one.high))
    return f"{value:+.{places}f} [{low:+.{places}f}, {high:+.{places}f}]"


def _markdown(table: Table) -> list[str]:
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    return [f"| {' | '.join(row)} |" for row in rows]


def _spaced(paragraphs: Sequence[str]) -> list[str]:
    return [line for text in paragraphs for line in (text, "")]


def _relative(file: Path, folder: Path) -> str:
    return Path(os.path.relpath(file, folder)).as_posix()


def _plain(text: str) -> str:
    """The text without Markdown: no emphasis, code marks or link targets."""
    return re.sub(r"\[([^]]+)]\([^)]+\)", r"\1", text.replace("**", "").replace("`", ""))
