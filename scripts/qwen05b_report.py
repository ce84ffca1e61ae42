"""Write the tables of docs/results/qwen05b-gsm8k.md from the results of scripts/qwen05b_gsm8k.py, as far as they go.

python scripts/qwen05b_report.py --out outputs/qwen05b > tables.md
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qwen05b_gsm8k import DEV_PROMPTS, TRIED, choose, dev_result

from implicit_prm.evaluation.formatting import band, decimals, percent

MODELS = ("ce", "dpo", "shuffled", "orm", "value_head", "pool-ce", "pool-dpo")
TITLES = {"test_mixed": "Test problems", "held_out": "Held-out problems of other models", "math500_bon32": "MATH-500"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/qwen05b"), help="folder of the results")
    options = parser.parse_args()
    for section in (responses, tried, *(candidates(stem) for stem in TITLES), process_bench, costs):
        print("\n".join(section(options)), end="\n\n")


def responses(options: argparse.Namespace) -> Iterator[str]:
    """Counts and fingerprints of the files of responses."""
    rows = []
    for name in ("train", "test", "pool/train", "pool/held_out"):
        path = options.out / f"{name}.jsonl"
        if not path.exists():
            continue
        labels, finished = [], []
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            labels.append(row["correctness"])
            finished += row.get("finished") or [True] * len(row["correctness"])
        total = len(finished)
        correct, mixed = sum(map(sum, labels)), sum(len(set(one)) == 2 for one in labels)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        cut = finished.count(False) / total
        rows.append([name, len(labels), total, f"{correct / total:.1%}", mixed, f"{cut:.1%}", f"`{digest}`"])
    yield "## Responses\n"
    yield from table(["file", "problems", "responses", "correct", "with both kinds", "cut off", "sha256"], rows)


def tried(options: argparse.Namespace) -> Iterator[str]:
    """All settings that were tried, with their result on the dev prompts."""
    rows = []
    for beta, rate in TRIED:
        found = dev_result(beta, rate, options)
        if found is not None:
            rows.append([beta, f"{rate:g}", f"{found:.3f}", "yes" if choose(options) == (beta, rate) else ""])
    yield f"## Settings tried\n\nCross-entropy; accuracy on pairs of responses to {DEV_PROMPTS} dev prompts.\n"
    yield from table(["beta", "learning rate", "accuracy", "chosen"], rows)


def candidates(stem: str) -> Any:
    """A section with all models' results on one file of candidates."""

    def section(options: argparse.Namespace) -> Iterator[str]:
        found = {name: read(options.out / name / f"eval-{stem}" / "metrics.json") for name in MODELS}
        found = {name: metrics for name, metrics in found.items() if metrics}
        if not found:
            return
        first = next(iter(found.values()))
        largest = str(first["sizes"][-1])
        yield f"## {TITLES[stem]}\n\n{first['problems']} problems, {first['responses']} responses.\n"
        yield from table(
            [
                "selected by",
                "within-problem AUROC",
                f"best of {largest}, %",
                "minus majority vote",
                "minus random pick",
            ],
            [
                row
                for name, metrics in found.items()
                for row in selections(name, metrics, largest, name == next(iter(found)))
            ],
        )
        yield "\nCorrelation of the score with length within problems, and shares of the reward's magnitude in %:\n"
        with_tokens = {name: metrics for name, metrics in found.items() if metrics.get("token_rewards")}
        classes = list(next(iter(with_tokens.values()))["token_rewards"]["classes"]) if with_tokens else []
        yield from table(["model", "length", *classes], [shares(*item, classes) for item in with_tokens.items()])

    return section


def selections(name: str, metrics: dict[str, Any], largest: str, with_baselines: bool) -> Iterator[list[str]]:
    """Rows of a model: its scores, and the baselines if they are not in the table yet."""
    baselines = ("majority vote", "log-likelihood of reference", "random pick", "oracle (pass@N)")
    for row, accuracy in metrics["accuracy"].items():
        if row in baselines and not with_baselines:
            continue
        best, auroc = accuracy[largest], metrics["within_problem_auroc"].get(row)
        against = [
            metrics["difference"].get(f"{row} - {base}", {}).get(largest) for base in ("majority vote", "random pick")
        ]
        yield [
            row if row in baselines else f"{name}: {row}",
            decimals(auroc) if auroc else "",
            f"{percent(best)} {band(best)}",
            *(f"{percent(found, '+')} {band(found)}" if found else "" for found in against),
        ]


def shares(name: str, metrics: dict[str, Any], classes: Iterable[str]) -> list[str]:
    """A model's correlation with length and the share of each class of tokens in its reward."""
    row = next(iter(metrics["length"]["scores"].values()))["within_problems"]
    return [name, decimals(row), *(percent(metrics["token_rewards"]["classes"][one]["magnitude"]) for one in classes)]


def process_bench(options: argparse.Namespace) -> Iterator[str]:
    """F1 with cross-fitted thresholds and step AUROC on ProcessBench."""
    rows = []
    for name in MODELS:
        metrics = read(options.out / name / "processbench" / "metrics.json") or {"subsets": {}}
        for subset, found in metrics["subsets"].items():
            best, blind = found["results"][metrics["values"]]["f1"], found["results"]["best blind guess"]["f1"]
            rows.append([name, subset, found["solutions"], f"{percent(best)} {band(best)}", percent(blind)])
            rows[-1].append(decimals(found["steps"]["auroc"]))
    if rows:
        yield "## ProcessBench\n"
        yield from table(["model", "subset", "solutions", "F1", "best blind guess", "step AUROC"], rows)


def costs(options: argparse.Namespace) -> Iterator[str]:
    """CPU time and peak memory of all stages that have run."""
    records = [(path.stem, read(path) or {}) for path in sorted((options.out / "stages").glob("*.json"))]
    rows = [[name, f"{one['cpu_seconds'] / 60:.0f}", f"{one['host_gb']:.1f}"] for name, one in records]
    total = sum(one["cpu_seconds"] for _, one in records) / 3600
    yield f"## Costs\n\nIn all, {total:.1f} hours of one core.\n"
    yield from table(["stage", "CPU minutes", "peak memory, GB"], rows)


def table(columns: list[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def read(path: Path) -> dict[str, Any] | None:
    """A JSON file; None if it does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


if __name__ == "__main__":
    main()
