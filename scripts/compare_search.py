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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from implicit_prm.config import BestOfNConfig, SearchConfig, from_mapping
from implicit_prm.data.groups import load_groups
from implicit_prm.evaluation.best_of_n.candidates import grade
from implicit_prm.evaluation.best_of_n.curves import MAJORITY, RANDOM, WEIGHTED, accuracy_curves, rankings
from implicit_prm.evaluation.statistics import bootstrap_mean
from implicit_prm.scoring.scorers import column_scorer
from implicit_prm.search.run import search_responses
from implicit_prm.utils.io import JsonLines, write_json

LARGEST = 32  # responses of best-of-N
WIDTH = 16  # responses of a search
RULES = ("best by guide", "weighted vote", "majority vote", "a random one")
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


@dataclass(frozen=True)
class Result:
    """Of each of P problems: tokens of generator and guide, and accuracies by the rule that picks the answer."""

    generator: np.ndarray
    guide: np.ndarray
    accuracy: dict[str, np.ndarray]  # by rule -> [P, sizes]

    @property
    def tokens(self) -> np.ndarray:
        return self.generator + self.guide


def judged(path: Path, problems: int, sizes: list[int] | None = None) -> Result:
    """Read the first rows of a file of candidates; by default only all responses to a problem together are judged."""
    rows, groups = JsonLines(path).rows()[:problems], load_groups(str(path))[:problems]
    kind = rows[0]["guide_kind"]
    config = BestOfNConfig(
        candidates=str(path), scores_column="guide_scores", scores_kind=kind, output_dir=".", ties="shared"
    )
    _, candidates = grade(groups, config)
    score = column_scorer("guide_scores", kind)
    scores = [score(group) for group in groups]
    curves = accuracy_curves(config, candidates, scores, rankings(config, scores), sizes or [len(groups[0])])
    best = next(iter(curves.values()))
    return Result(
        np.array([row["generator_tokens"] for row in rows], dtype=float),
        np.array([row["guide_tokens"] or 0 for row in rows], dtype=float),
        dict(zip(RULES, (best, curves[WEIGHTED], curves[MAJORITY], curves[RANDOM]), strict=True)),
    )


class BestOfN:
    """Accuracy and cost of best-of-N for every N up to `LARGEST`, from one file."""

    def __init__(self, path: Path, problems: int) -> None:
        self.sizes = list(range(1, LARGEST + 1))
        self._result, self._prompt = judged(path, problems, self.sizes), _prompt_tokens(path, problems)

    def tokens(self, n: int) -> float:
        """Mean per problem. Generator and guide compute the prompt once each."""
        return float(2 * self._prompt + (self._result.tokens.mean() - 2 * self._prompt) * n / LARGEST)

    def at_cost(self, tokens: float) -> int:
        """The largest N that costs no more."""
        return max([n for n in self.sizes if self.tokens(n) <= tokens], default=1)

    def accuracy(self, rule: str, n: int) -> np.ndarray:
        return self._result.accuracy[rule][:, n - 1]


def interval(values: np.ndarray, sign: str = "") -> str:
    """Mean in percent, with its 95 % interval over problems."""
    found = bootstrap_mean(values)
    value, low, high = (f"{100 * x:{sign}.1f}" for x in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


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


def compare(chosen: list[Cell], options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """Every method against best-of-N at equal cost, on test problems."""
    plain = searched(BEST_OF_N, "test", LARGEST, options)
    reference = BestOfN(plain, options.problems)
    rows: list[dict[str, Any]] = []
    lines = [
        f"| method | n | tokens | {' | '.join(RULES)} | N of equal cost | difference of best | of weighted vote |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for n in (1, 2, 4, 8, 16, 32):
        tokens, accuracy = reference.tokens(n), {rule: reference.accuracy(rule, n) for rule in RULES}
        lines.append(f"| best-of-N | {n} | {tokens:,.0f} | {' | '.join(map(interval, accuracy.values()))} | | | |")
        for name, rule in (("best-of-N", RULES[0]), ("weighted vote", RULES[1])):
            rows.append({"method": name, "n": n, "tokens": tokens, "best": accuracy[rule].mean()})
    exact = [Cell(f"{cell.method}, exact checker", cell.algorithm, "min", True) for cell in chosen[:1]]
    for cell in [*chosen, POLICY, *exact]:
        result = judged(searched(cell, "test", WIDTH, options), options.problems)
        tokens, equal = float(result.tokens.mean()), reference.at_cost(result.tokens.mean())
        best = result.accuracy[RULES[0]][:, 0]
        both = [result.accuracy[rule][:, 0] - reference.accuracy(rule, equal) for rule in RULES[:2]]
        accuracies = " | ".join(interval(result.accuracy[rule][:, 0]) for rule in RULES)
        differences = " | ".join(interval(one, "+") for one in both)
        name = f"{cell.method} ({cell.settings})"
        lines.append(f"| {name} | {WIDTH} | {tokens:,.0f} | {accuracies} | {equal} | {differences} |")
        rows.append(
            {"method": cell.method, "n": WIDTH, "tokens": tokens, "best": best.mean(), "settings": cell.settings}
            | {"difference": asdict(bootstrap_mean(both[0])), "equal_n": equal}
        )
    return rows, lines


def _prompt_tokens(path: Path, problems: int) -> float:
    """Mean number of tokens of a prompt."""
    from transformers import AutoTokenizer

    from implicit_prm import sandbox
    from implicit_prm.config import TextConfig
    from implicit_prm.data.tokenization import Encoder

    encoder = Encoder(AutoTokenizer.from_pretrained(sandbox.POLICY_PATH), TextConfig())
    return float(np.mean([len(encoder.prompt_ids(row["prompt"])) for row in JsonLines(path).rows()[:problems]]))


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
    rows, lines = compare(chosen, options)
    tables = "\n".join([*lines, "", *tried, ""])
    print(tables)
    (options.output / "tables.md").write_text(tables, encoding="utf-8")
    write_json(options.output / "results.json", rows)
    draw(rows, options.output / "search.png")


if __name__ == "__main__":
    main()
