"""Grade responses that already have grades, and list every response on which the two grades differ.

    python scripts/audit_grading.py math500_bon32.jsonl.gz gsm8k_multimodel_rollouts.jsonl.gz

A pool is a file of grouped rows with problem, answer, responses[] and correct[]. If it also has models[], there is
a table by model. If it has preds[], the "answer" field of responses that were JSON objects whose "reasoning" is in
responses[], both are graded: the reasoning alone, which seldom marks the answer, and the whole object.

Tables go to the terminal and to OUTPUT/report.md, with 95 % bootstrap intervals over problems; disagreements go to
OUTPUT/disagreements.jsonl, one per line, with a class. It takes one core and up to half a minute for 10,000 responses.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import track

from implicit_prm.config import Extraction
from implicit_prm.data.groups import load_groups
from implicit_prm.evaluation.statistics import clustered_ratio
from implicit_prm.grading import Grader, Verdict
from implicit_prm.types import Group, ImplicitPRMError
from implicit_prm.utils.io import atomic_write

STATUSES = ("equal", "different", "no_answer", "timeout", "unparsable")


@dataclass
class Audit:
    """The agreement on one pool in one form."""

    name: str
    counts: Counter[tuple[str, bool]] = field(default_factory=Counter)  # (our status, label)
    by_rule: dict[str, Counter[tuple[bool, bool]]] = field(default_factory=lambda: defaultdict(Counter))
    rule_per_problem: list[Counter[tuple[str, bool]]] = field(default_factory=list)  # (rule, agreed)
    by_model: dict[str, Counter[bool]] = field(default_factory=lambda: defaultdict(Counter))
    agreed: list[int] = field(default_factory=list)  # per problem
    total: list[int] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def add(self, group: Group, verdicts: list[Verdict]) -> None:
        models = group.extra.get("models") or [None] * len(group)
        agreements = 0
        rules: Counter[tuple[str, bool]] = Counter()
        for verdict, label, model in zip(verdicts, group.correctness, models, strict=True):
            agree = verdict.correct == label
            agreements += agree
            self.counts[verdict.status, bool(label)] += 1
            self.by_rule[verdict.rule or "(none)"][verdict.correct, bool(label)] += 1
            rules[verdict.rule or "(none)", agree] += 1
            if model is not None:
                self.by_model[model][agree] += 1
        self.rule_per_problem.append(rules)
        self.agreed.append(agreements)
        self.total.append(len(group))

    def lines(self) -> Iterator[str]:
        interval = clustered_ratio(self.agreed, self.total)
        responses, disagreed = sum(self.total), sum(self.total) - sum(self.agreed)
        yield f"\n## {self.name}\n"
        yield (
            f"{responses:,} responses to {len(self.total):,} problems, {disagreed:,} disagreements: agreement "
            f"{interval.value:.2%} [{interval.low:.2%}, {interval.high:.2%}]\n"
        )
        yield from ("| our verdict | labelled correct | labelled incorrect |", "|---|---|---|")
        for status in STATUSES:
            yield f"| {status} | {self.counts[status, True]:,} | {self.counts[status, False]:,} |"
        yield from ("", "| answer found by | responses | agreement | equal | of these labelled incorrect |")
        yield "|---|---|---|---|---|"
        for rule, counts in sorted(self.by_rule.items(), key=lambda item: -item[1].total()):
            equal = counts[True, True] + counts[True, False]
            agreed = [problem[rule, True] for problem in self.rule_per_problem]
            both = [count + problem[rule, False] for count, problem in zip(agreed, self.rule_per_problem, strict=True)]
            found = clustered_ratio(agreed, both)
            agree = f"{found.value:.2%} [{found.low:.2%}, {found.high:.2%}]"
            yield f"| {rule} | {counts.total():,} | {agree} | {equal:,} | {counts[True, False]:,} |"
        if self.by_model:
            yield from ("", "| model | responses | agreement |", "|---|---|---|")
            for model, counts in sorted(self.by_model.items(), key=lambda item: item[1][True] / item[1].total()):
                yield f"| {model} | {counts.total():,} | {counts[True] / counts.total():.2%} |"
        yield f"\n{responses / self.seconds:.0f} responses a second ({responses / self.cpu_seconds:.0f} of CPU time)"


def forms(groups: list[Group]) -> Iterator[tuple[str, list[list[str]]]]:
    """The texts to grade, for each way in which the pool holds the responses."""
    if "preds" not in groups[0].extra:
        yield "", [group.completions for group in groups]
        return
    yield "reasoning alone", [group.completions for group in groups]
    yield "reasoning and answer", [as_objects(group) for group in groups]


def as_objects(group: Group) -> list[str]:
    """The responses as their models gave them, JSON objects with two fields."""
    fields = zip(group.completions, group.extra["preds"], strict=True)
    return [json.dumps({"reasoning": text, "answer": given or ""}, ensure_ascii=False) for text, given in fields]


def kind(verdict: Verdict, label: bool, whole: Verdict | None) -> str:
    """The class of a disagreement. `whole`: the verdict on the whole object, where only its reasoning was graded."""
    if verdict.status in ("no_answer", "timeout", "unparsable"):
        return verdict.status
    if whole is not None and whole.correct == label:
        return "the reasoning ends in another value than the answer field"
    if whole is None and verdict.rule not in ("box", "field"):
        return f"{verdict.status}, read from a sentence"
    return "stricter than the label" if label else "more lenient than the label"


def audit(name: str, groups: list[Group], texts: list[list[str]], grader: Grader, rows: list[dict[str, Any]]) -> Audit:
    """Grade every text; disagreements are added to `rows`."""
    result = Audit(name)
    start, cpu_start = time.perf_counter(), cpu_time()
    for group, responses in track(list(zip(groups, texts, strict=True)), name, console=Console(stderr=True)):
        verdicts = [grader.grade(response, group.answer or "") for response in responses]
        result.add(group, verdicts)
        objects = as_objects(group) if "preds" in group.extra and responses is group.completions else None
        for place, (verdict, label) in enumerate(zip(verdicts, group.correctness, strict=True)):
            if verdict.correct == label:
                continue
            whole = grader.grade(objects[place], group.answer or "") if objects else None
            rows.append(
                {
                    "pool": name,
                    "class": kind(verdict, bool(label), whole),
                    "label": label,
                    "status": verdict.status,
                    "rule": verdict.rule,
                    "gold": group.answer,
                    "answer": verdict.answer,
                    "id": group.id,
                    "place": place,
                    "model": (group.extra.get("models") or {place: None})[place],
                    "response": responses[place],
                }
            )
    grader.close()  # only then does the worker's CPU time count
    result.seconds, result.cpu_seconds = time.perf_counter() - start, cpu_time() - cpu_start
    return result


def cpu_time() -> float:
    """Seconds of CPU of this process and of the workers that have ended."""
    uses = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="+", metavar="POOL")
    parser.add_argument("--output", type=Path, default=Path("outputs/grading"))
    parser.add_argument("--problems", type=int, help="only the first of each pool")
    parser.add_argument("--extraction", choices=get_args(Extraction), default="standard")
    parser.add_argument("--limit-s", type=float, default=5.0, help="CPU seconds for one comparison")
    options = parser.parse_args()

    rows: list[dict[str, Any]] = []
    report: list[str] = ["# Grading audit"]
    for source in options.pools:
        groups = load_groups(source)[: options.problems]
        if any(group.answer is None for group in groups):
            raise ImplicitPRMError(f"{source}: has no column answer; without one nothing can be graded again")
        pool = Path(source).name.split(".")[0]
        for form, texts in forms(groups):
            grader = Grader(
                options.extraction, options.limit_s
            )  # a fresh memory, so that the throughput is of this form alone
            result = audit(f"{pool}, {form}" if form else pool, groups, texts, grader, rows)
            lines = list(result.lines())
            report += lines
            print("\n".join(lines), flush=True)
    classes = Counter((row["pool"], row["class"]) for row in rows)
    lines = ["\n## Disagreements\n", "| pool | class | responses |", "|---|---|---|"]
    lines += [f"| {pool} | {name} | {count:,} |" for (pool, name), count in classes.most_common()]
    print("\n".join(lines))
    with atomic_write(options.output / "report.md") as stream:
        stream.write(("\n".join(report + lines) + "\n").encode())
    with atomic_write(options.output / "disagreements.jsonl") as stream:
        stream.writelines((json.dumps(row) + "\n").encode() for row in rows)
    print(f"\nevery disagreement: {options.output / 'disagreements.jsonl'}")


if __name__ == "__main__":
    try:
        main()
    except ImplicitPRMError as error:
        sys.exit(f"error: {error}")
