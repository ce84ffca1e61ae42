"""Results of searches: accuracy, tokens, and the best-of-N that costs as much."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from implicit_prm.config import BestOfNConfig, TextConfig
from implicit_prm.data.groups import load_groups
from implicit_prm.data.tokenization import Encoder
from implicit_prm.evaluation.best_of_n.candidates import grade
from implicit_prm.evaluation.best_of_n.curves import MAJORITY, RANDOM, WEIGHTED, accuracy_curves, rankings
from implicit_prm.evaluation.statistics import bootstrap_mean
from implicit_prm.scoring.scorers import column_scorer
from implicit_prm.utils.io import JsonLines

RULES = ("best by guide", "weighted vote", "majority vote", "a random one")


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
    """Accuracy and cost of best-of-N for every N, from one file.

    Args:
        path: candidates of `ipr-search algorithm=best_of_n`.
        problems: number of rows that count.
        largest: responses to each problem.
        tokenizer: of the generator.
        models: how many compute the prompt: the generator and pi_theta, and the reference if it is not the generator.
    """

    def __init__(
        self, path: Path, problems: int, largest: int, tokenizer: PreTrainedTokenizerBase, models: int = 2
    ) -> None:
        self.sizes = list(range(1, largest + 1))
        self._result = judged(path, problems, self.sizes)
        encoder = Encoder(tokenizer, TextConfig())
        prompts = [len(encoder.prompt_ids(row["prompt"])) for row in JsonLines(path).rows()[:problems]]
        self._prompt = models * np.mean(prompts)

    def tokens(self, n: int) -> float:
        """Mean per problem. Every model computes the prompt once."""
        return float(self._prompt + (self._result.tokens.mean() - self._prompt) * n / self.sizes[-1])

    def at_cost(self, tokens: float) -> int:
        """The largest N that costs no more, up to 1 %: lengths of responses vary from run to run."""
        return max([n for n in self.sizes if self.tokens(n) <= 1.01 * tokens], default=1)

    def accuracy(self, rule: str, n: int) -> np.ndarray:
        return self._result.accuracy[rule][:, n - 1]


def interval(values: np.ndarray, sign: str = "") -> str:
    """Mean in percent, with its 95 % interval over problems."""
    found = bootstrap_mean(values)
    value, low, high = (f"{100 * x:{sign}.1f}" for x in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


class Table:
    """A Markdown table of methods beside best-of-N, and the same numbers as records.

    Args:
        reference: best-of-N of the same generator, on the same problems.
    """

    def __init__(self, reference: BestOfN) -> None:
        self.reference = reference
        self.records: list[dict[str, Any]] = []
        columns = ["method", "n", "tokens", *RULES, "N of equal cost", "best: difference", "weighted vote: difference"]
        self.lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]

    def add_best_of(self, n: int) -> None:
        """A row of best-of-`n`."""
        tokens = self.reference.tokens(n)
        accuracy = [self.reference.accuracy(rule, n) for rule in RULES]
        self.lines.append(f"| best-of-N | {n} | {tokens:,.0f} | {' | '.join(map(interval, accuracy))} | | | |")
        for name, values in (("best-of-N", accuracy[0]), ("weighted vote", accuracy[1])):
            self.records.append({"method": name, "n": n, "tokens": tokens, "best": values.mean()})

    def add(self, method: str, settings: str, n: int, result: Result) -> None:
        """A row of a method with `n` responses, and its differences from best-of-N at equal cost."""
        tokens, equal = float(result.tokens.mean()), self.reference.at_cost(result.tokens.mean())
        accuracy = [result.accuracy[rule][:, 0] for rule in RULES]
        both = [mine - self.reference.accuracy(rule, equal) for mine, rule in zip(accuracy[:2], RULES, strict=False)]
        cells = [f"{method} ({settings})" if settings else method, n, f"{tokens:,.0f}", *map(interval, accuracy), equal]
        self.lines.append(f"| {' | '.join(map(str, cells))} | {' | '.join(interval(one, '+') for one in both)} |")
        self.records.append(
            {"method": method, "n": n, "tokens": tokens, "best": accuracy[0].mean(), "settings": settings}
            | {"difference": asdict(bootstrap_mean(both[0])), "equal_n": equal}
        )
