"""Search against reranking at equal cost, on the sandbox: settings chosen on dev problems, results on test problems.

    python scripts/compare_search.py                          # needs outputs/sandbox/ce of `make demo`
    python scripts/compare_search.py --guide FOLDER --output FOLDER

Every cell of the tables is a file of `ipr-search` in the output folder. A file that is complete is not made again, so
the same command resumes. Prints the tables of docs/search.md, and writes tables.md, results.json and search.png.

Cost is the number of tokens that the models compute for a problem: the generator's, which is the guide's reference and
knows its own log-probabilities, and pi_theta's. Best-of-N is an expectation over all subsets of 32 responses.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from searchlib.results import RULES, BestOfN, Table, judged
from transformers import AutoTokenizer

from implicit_prm import sandbox
from implicit_prm.config import SearchConfig, from_mapping
from implicit_prm.search.run import search_responses
from implicit_prm.utils.io import write_json

LARGEST = 32  # responses of best-of-N
WIDTH = 16  # responses of a search
DEV_PROBLEMS, TEST_PROBLEMS = 40, 250


@dataclass(frozen=True)
class Cell:
    """A method with its settings."""

    method: str
    algorithm: tuple[tuple[str, Any], ...]
    aggregate: str = "min"
    exact: bool = False

    @property
    def settings(self) -> str:
        """What was chosen, for the table."""
        own = [f"{name}={value:g}" for name, value in self.algorithm if name != "name"]
        compares = dict(self.algorithm)["name"] not in ("best_of_n", "tokens")
        return ", ".join([*own, *([f"aggregate={self.aggregate}"] if compares else [])])

    def file(self, split: str, n: int) -> str:
        values = "-".join(f"{value}" for _, value in self.algorithm)
        return f"{split}/{values}-{self.aggregate}{'-exact' if self.exact else ''}-{n}.jsonl"


def cells(method: str, aggregates: tuple[str, ...] = ("min",), **grid: tuple[float, ...]) -> list[Cell]:
    """A method with every combination of its settings."""
    (option, values), *_ = [*grid.items(), (None, (None,))]
    own = [[("name", method), *([(option, value)] if option else [])] for value in values]
    return [Cell(method, tuple(one), aggregate) for one in own for aggregate in aggregates]


# Tried on dev problems; the best of each is used on test problems.
GRID = {
    "beam": cells("beam", ("min", "sum"), branch=(2, 4)),
    "dvts": cells("dvts", branch=(2, 4)),
    "rebase": cells("rebase", temperature=(0.5, 2.0)),
    "particles": cells("particles", ("min", "sum"), temperature=(2.0, 8.0)),
    "tokens": cells("tokens", weight=(0.2, 0.5)),
}
BEST_OF_N = Cell("best_of_n", (("name", "best_of_n"),))
POLICY = Cell("samples of pi_theta", (("name", "tokens"), ("weight", 1.0)))


def searched(cell: Cell, split: str, n: int, options: argparse.Namespace) -> Path:
    """The candidates of a cell, made if they are not there."""
    guide = {"kind": "exact"} if cell.exact else {"kind": "checkpoint", "checkpoint": str(options.guide)}
    config = from_mapping(
        SearchConfig,
        {
            "policy": {"name": "sandbox", "dtype": "float32"},
            "problems": {
                "name": "sandbox",
                "split": split,
                "limit": options.problems if split == "test" else DEV_PROBLEMS,
                "prompt_template": "{problem}",
            },
            "sampling": {"n": n, "max_new_tokens": 48, "seed": 0},
            "algorithm": dict(cell.algorithm),
            "guide": guide,
            "aggregate": cell.aggregate,
            "steps": "newline",
            "output": str(options.output / cell.file(split, n)),
        },
    )
    return search_responses(config, say=lambda _: None)


def choose(options: argparse.Namespace) -> tuple[list[Cell], list[str]]:
    """The setting of each method with the best accuracy on dev problems, and a table of what was tried."""
    chosen, lines = [], ["| method | settings | best by guide |", "|---|---|---|"]
    for method, tried in GRID.items():
        files = [searched(cell, "dev", WIDTH, options) for cell in tried]
        accuracy = [judged(file, DEV_PROBLEMS).accuracy[RULES[0]].mean() for file in files]
        best = int(np.argmax(accuracy))
        chosen.append(tried[best])
        for place, (cell, value) in enumerate(zip(tried, accuracy, strict=True)):
            mark = "**" if place == best else ""
            lines.append(f"| {method} | {cell.settings} | {mark}{100 * value:.1f}{mark} |")
    return chosen, lines


def compare(chosen: list[Cell], options: argparse.Namespace) -> Table:
    """Every method against best-of-N at equal cost, on test problems."""
    plain = searched(BEST_OF_N, "test", LARGEST, options)
    table = Table(BestOfN(plain, options.problems, LARGEST, AutoTokenizer.from_pretrained(sandbox.POLICY_PATH)))
    for n in (1, 2, 4, 8, 16, 32):
        table.add_best_of(n)
    exact = [Cell(f"{cell.method}, exact checker", cell.algorithm, "min", True) for cell in chosen[:1]]
    for cell in [*chosen, POLICY, *exact]:
        found = judged(searched(cell, "test", WIDTH, options), options.problems)
        table.add(cell.method, cell.settings, WIDTH, found)
    return table


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against tokens."""
    from implicit_prm.evaluation.figures import new_figure, save

    figure = new_figure(7.2, 4.6)
    axes = figure.subplots()
    names = list(dict.fromkeys(row["method"] for row in rows))
    for place, name in enumerate(names):
        mine = [row for row in rows if row["method"] == name]
        style = {"best-of-N": "k-", "weighted vote": "k:"}.get(name, f"C{place - 2}--")
        x, y = [row["tokens"] for row in mine], [100 * row["best"] for row in mine]
        axes.plot(x, y, style, marker="o", markersize=4, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("tokens per problem, of generator and guide")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guide", type=Path, default=Path("outputs/sandbox/ce"), help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs/compare_search"), help="(default: %(default)s)")
    parser.add_argument("--problems", type=int, default=TEST_PROBLEMS, help="of the test split (default: %(default)s)")
    options = parser.parse_args()
    chosen, tried = choose(options)
    table = compare(chosen, options)
    tables = "\n".join([*table.lines, "", *tried, ""])
    print(tables)
    (options.output / "tables.md").write_text(tables, encoding="utf-8")
    write_json(options.output / "results.json", table.records)
    draw(table.records, options.output / "search.png")


if __name__ == "__main__":
    main()
