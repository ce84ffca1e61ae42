"""Write the tables of docs/results/qwen05b-gsm8k.md from the results of scripts/qwen05b_gsm8k.py, as far as they go.

python scripts/qwen05b_report.py --out outputs/qwen05b > tables.md
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from qwen05b_gsm8k import CRITERION, DEV_PROMPTS, RATES, TRIED, choose, dev_result, folder_of, tuned
from qwen05b_pairs import PEERS, among_peers, compare, generators

from implicit_prm.costs.ledger import Ledger
from implicit_prm.evaluation.formatting import band, decimals, percent

BASELINES = ("majority vote", "log-likelihood of reference", "random pick", "oracle (pass@N)")
MODELS = ("ce", "dpo", "shuffled", "orm", "value_head", "pool-ce", "pool-dpo")
TITLES = {"test_mixed": "Test problems", "held_out": "Held-out problems of other models", "math500_mixed": "MATH-500"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/qwen05b"), help="folder of the results")
    options = parser.parse_args()
    on_candidates = [candidates(stem) for stem in TITLES]
    for section in (responses, tried, trainings, *on_candidates, process_bench, costs):
        print("\n".join(section(options)), end="\n\n")


def responses(options: argparse.Namespace) -> Iterator[str]:
    """Counts and fingerprints of the files of responses."""
    rows = []
    for name in ("train", "test", "pool/train", "pool/held_out", "math500_mixed"):
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
        shares = [f"{100 * part / total:.1f} %" for part in (correct, finished.count(False))]
        rows.append([name, len(labels), f"{total:,}", shares[0], mixed, shares[1], f"`{digest}`"])
    yield "## Responses\n"
    yield from table(["file", "problems", "responses", "correct", "with both kinds", "cut off", "sha256"], rows)


def tried(options: argparse.Namespace) -> Iterator[str]:
    """All settings that were tried, with their result on the dev prompts."""
    rows = []
    for beta, rate in TRIED:
        found = dev_result(tuned(beta, rate), options)
        if found is not None:
            rows.append([beta, f"{rate:g}", f"{found:.3f}", "yes" if choose(options) == (beta, rate) else ""])
    yield f"## Settings tried\n\nCross-entropy; accuracy on pairs of responses to {DEV_PROMPTS} dev prompts.\n"
    yield from table(["beta", "learning rate", "accuracy", "chosen"], rows)


def candidates(stem: str) -> Callable[[argparse.Namespace], Iterator[str]]:
    """A section with all models' results on one file of candidates."""

    def section(options: argparse.Namespace) -> Iterator[str]:
        found = evaluations(stem, options)
        if not found:
            return
        first = next(iter(found.values()))
        yield (
            f"## {TITLES[stem]}\n\n{first['problems']} problems, {first['responses']} responses; cut off: "
            f"{first['cut_off_responses']}; without an answer, or cut off: {first['unanswered_responses']}.\n"
        )
        columns = ["score", "problems", "within-problem AUROC", "the same, equal lengths", "correlation with length"]
        yield from table(columns, rankings(found))
        yield ""
        if stem == "held_out":
            known = generators(
                options.out / "pool/train.jsonl", options.out / "pool/held_out.jsonl", responses_of(first)
            )
            yield f"A score that knows only which model wrote a response: AUROC {decimals(known)}.\n"
            yield from peers(found, options)
            yield ""
        rest = untouched(options) if stem == "test_mixed" else None
        columns = ["selected by", "N", "accuracy, %", "minus majority vote", "minus random pick"]
        yield from table(
            [*columns, "all test problems, %"] if rest else columns,
            [row for name, one in found.items() for row in selections(name, one, name == next(iter(found)), rest)],
        )
        with_tokens = {name: one["token_rewards"]["classes"] for name, one in found.items() if one["token_rewards"]}
        if with_tokens:
            classes = next(iter(with_tokens.values()))
            yield "\nShares of classes of tokens in all tokens, and in the magnitude of each model's reward, in %:\n"
            yield from table(["", *classes], shares(with_tokens))
        yield from differences(stem, found, options)

    return section


def peers(found: dict[str, dict[str, Any]], options: argparse.Namespace) -> Iterator[str]:
    """AUROCs where style is of little help: over pairs that two models of about the same accuracy wrote."""
    pool = options.out / "pool"
    folders = {name: folder_of(name, options) / "eval-held_out" for name in found}
    limits = {name: responses_of(metrics) for name, metrics in found.items()}
    rows = among_peers(pool / "train.jsonl", pool / "held_out.jsonl", folders, limits)
    yield f"Over pairs that two models wrote whose accuracies differ by at most {100 * PEERS:.0f} points:\n"
    first = rows[0]["model"]
    cells = [
        [
            *(one["model"], one["reading"], one["auroc"]["problems"], decimals(one["auroc"])),
            "" if one["model"] == first else decimals(one["difference"]),
        ]
        for one in rows
    ]
    yield from table(["score", "ranked by", "problems", "within-problem AUROC", f"minus {first}"], cells)


def evaluations(stem: str, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name of a model -> its metrics on a file of candidates."""
    found = {name: read(folder_of(name, options) / f"eval-{stem}" / "metrics.json") for name in MODELS}
    return {name: metrics for name, metrics in found.items() if metrics}


def responses_of(metrics: dict[str, Any]) -> int | None:
    """The number of responses to each problem that an evaluation has drawn; None for all."""
    limit: int | None = metrics["config"]["max_responses"]
    return limit


def title(name: str, row: str) -> str:
    """A row of a model, or a baseline. The outcome reward model has a single step."""
    if row in BASELINES:
        return row
    return f"{name}: {'last token' if name == 'orm' and row.startswith('PRM') else row}"


def rankings(found: dict[str, dict[str, Any]]) -> Iterator[list[Any]]:
    """Rows of all scores: do they rank correct responses above incorrect ones, and do they follow length?"""
    for place, (name, metrics) in enumerate(found.items()):
        length = metrics["length"]
        for row, auroc in metrics["within_problem_auroc"].items():
            if row not in BASELINES or place == 0:
                effect = length["scores"][row]
                cells = map(decimals, (auroc, effect["auroc_matched"], effect["within_problems"]))
                yield [title(name, row), auroc["problems"], *cells]
        if place == 0:
            yield ["shortest response", length["shortest"]["problems"], decimals(length["shortest"]), "", ""]


def selections(
    name: str, metrics: dict[str, Any], with_baselines: bool, rest: tuple[int, int] | None
) -> Iterator[list[Any]]:
    """Rows of a model: its scores, and the baselines if they are not in the table yet.

    Args:
        name: of the model.
        metrics: of its evaluation, whose largest N is reported.
        with_baselines: also rows of BASELINES.
        rest: problems of the same set that are not in it; see `untouched`.
    """
    largest = str(metrics["sizes"][-1])
    for row, accuracy in metrics["accuracy"].items():
        if row in BASELINES and not with_baselines:
            continue
        best = accuracy[largest]
        against = [
            metrics["difference"].get(f"{row} - {base}", {}).get(largest) for base in ("majority vote", "random pick")
        ]
        cells = [title(name, row), largest, f"{percent(best)} {band(best)}"]
        cells += [f"{percent(found, '+')} {band(found)}" if found else "" for found in against]
        if rest:
            overall = {
                end: (metrics["problems"] * share + rest[0]) / (metrics["problems"] + sum(rest))
                for end, share in best.items()
            }
            cells.append(f"{percent(overall)} {band(overall)}")
        yield cells


def untouched(options: argparse.Namespace) -> tuple[int, int]:
    """Test problems whose responses are all correct, and those whose responses are all incorrect."""
    rows = map(json.loads, (options.out / "test.jsonl").read_text(encoding="utf-8").splitlines())
    kinds = [set(row["correctness"]) for row in rows]
    return kinds.count({True}), kinds.count({False})


def shares(with_tokens: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    """The share of each class of tokens in the tokens, and in each model's reward."""
    first = next(iter(with_tokens.values()))
    yield ["tokens", *(percent(one["tokens"]) for one in first.values())]
    for name, classes in with_tokens.items():
        yield [name, *(f"{percent(one['magnitude'])} {band(one['magnitude'])}" for one in classes.values())]


def differences(stem: str, found: dict[str, dict[str, Any]], options: argparse.Namespace) -> Iterator[str]:
    """Paired differences between models, on the responses that both have scored."""
    folders = {name: folder_of(name, options) / f"eval-{stem}" for name in found}
    limits = {name: responses_of(metrics) for name, metrics in found.items()}
    rows = []
    for one in compare(candidates_of(stem, options), folders, limits) if len(found) > 1 else []:
        best = f"{percent(one['best'], '+')} {band(one['best'])}"
        rows.append([" - ".join(one["models"]), one["reading"], decimals(one["auroc"]), best])
    if rows:
        yield "\nPaired differences, on the responses that both models have scored:\n"
        yield from table(["models", "ranked by", "within-problem AUROC", "accuracy of the best, points"], rows)


def candidates_of(stem: str, options: argparse.Namespace) -> Path:
    """The file of candidates."""
    return options.out / ("pool" if stem == "held_out" else "") / f"{stem}.jsonl"


def process_bench(options: argparse.Namespace) -> Iterator[str]:
    """F1 with cross-fitted thresholds and step AUROC on ProcessBench."""
    rows = []
    for name in MODELS:
        metrics = read(folder_of(name, options) / "processbench" / "metrics.json") or {"subsets": {}}
        for subset, found in metrics["subsets"].items():
            best = found["results"][metrics["values"]]["f1"]
            blind = found["f1_difference"][f"{metrics['values']} - best blind guess"]
            f1 = [f"{percent(best)} {band(best)}", f"{percent(blind, '+')} {band(blind)}"]
            rows.append([name, subset, found["solutions"], *f1, decimals(found["steps"]["auroc"])])
    if rows:
        yield "## ProcessBench\n"
        yield from table(["model", "subset", "solutions", "F1", "minus best blind guess", "step AUROC"], rows)


def trainings(options: argparse.Namespace) -> Iterator[str]:
    """What was trained on, what came out on the dev prompts, and what it cost."""
    rows = []
    both = [f"{kind}-{rate:g}" for kind, rates in RATES.items() for rate in rates]
    implicit = [name for name in MODELS if name not in RATES]
    for name in [tuned(*tried) for tried in TRIED] + implicit + both:
        folder = folder_of(name, options)
        metrics, report = (read(folder / file) for file in ("train_metrics.json", "data_report.json"))
        if metrics and report:
            used, pairs = report["train"]["used"], report["dev"]["used"]["pairs"]
            accuracy = "" if name == "shuffled" else f"{metrics[CRITERION]:.3f}"  # its dev labels are permuted, too
            drift = f"{metrics['eval_forward_kl']:.1f}" if "eval_forward_kl" in metrics else ""
            results = [accuracy, pairs, drift, flops(folder)]
            rows.append([name, used["prompts"], used["responses"], *results])
    if rows:
        yield "## Training\n"
        columns = [
            "model",
            "prompts",
            "responses",
            "accuracy on dev pairs",
            "dev pairs",
            "mean negative log-ratio, nats",
        ]
        yield from table([*columns, "FLOPs"], rows)


def flops(folder: Path) -> str:
    """FLOPs of a training, with those of its reference; empty if the run did not record its epochs."""
    if "epoch" not in (read(folder / "train_metrics.json") or {}):
        return ""
    ledger = Ledger()
    ledger.training(folder)
    return f"{ledger.total():.2g}"


def costs(options: argparse.Namespace) -> Iterator[str]:
    """Time and peak memory of all stages that have run."""
    records = [(path.stem, read(path) or {}) for path in sorted((options.out / "stages").glob("*.json"))]
    rows = [
        [name, *(f"{one[key] / 60:.0f}" for key in ("seconds", "cpu_seconds")), f"{one['host_gb']:.1f}"]
        for name, one in records
    ]
    total = sum(one["cpu_seconds"] for _, one in records) / 3600
    yield f"## Costs\n\nIn all, {total:.1f} hours of one core, without sampling.\n"
    yield from table(["stage", "minutes", "CPU minutes", "peak memory, GB"], rows)


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
