"""Make training and held-out files from a pool of responses by many models.

    python scripts/prepare_multimodel.py ../shared/data/gsm8k_multimodel_rollouts.jsonl.gz --out outputs/multimodel

A row of the pool is a problem with `answer`, `models`, `responses` and `correct`. Left out are responses of unsuitable
length, copies of another response to the same problem and damaged ones (with control characters), then problems with
too few correct or wrong responses. The rest is split by problem, and each problem keeps some correct and some wrong
responses in random order. The same arguments write the same files, train.jsonl and held_out.jsonl, in the format of
ipr-rollout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from implicit_prm.config import ProblemsConfig, TextConfig
from implicit_prm.data.readers import read_rows
from implicit_prm.data.tokenization import build_prompt
from implicit_prm.utils.io import atomic_write, to_json

DAMAGED = re.compile(r"[\x00-\x08\x0b-\x1f]")  # \boxed and \frac that were not escaped are control characters


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", help="file with the columns problem, answer, models, responses and correct")
    parser.add_argument("--out", type=Path, required=True, help="folder of train.jsonl and held_out.jsonl")
    parser.add_argument("--held-out", type=int, default=124, help="number of problems in held_out.jsonl")
    parser.add_argument(
        "--each", type=int, default=4, help="most correct, and most wrong, responses per training problem"
    )
    parser.add_argument("--held-out-each", type=int, default=8, help="the same per held-out problem")
    parser.add_argument("--at-least", type=int, default=2, help="fewest correct, and wrong, responses of a problem")
    parser.add_argument("--min-characters", type=int, default=150, help="length of the shortest response")
    parser.add_argument("--max-characters", type=int, default=1000, help="length of the longest response")
    parser.add_argument("--prompt-template", default=ProblemsConfig.prompt_template, help="with {problem} in it")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the responses")
    return parser.parse_args()


def usable(row: dict[str, Any], shortest: int, longest: int, left_out: Counter[str]) -> list[int]:
    """Indices of the responses to keep; the others are counted by reason."""
    kept, seen = [], set()
    for place, text in enumerate(row["responses"]):
        if not shortest <= len(text) <= longest:
            left_out["length"] += 1
        elif DAMAGED.search(text):
            left_out["control characters"] += 1
        elif text in seen:
            left_out["copy"] += 1
        else:
            seen.add(text)
            kept.append(place)
    return kept


def select(row: dict[str, Any], places: Iterable[int], each: int, seed: int) -> list[int]:
    """At most `each` correct and `each` wrong responses, in random order. Depends on the problem and the seed alone."""
    rng = random.Random(f"{seed} {row['problem']}")
    drawn = list(places)
    rng.shuffle(drawn)
    by_label = ([place for place in drawn if row["correct"][place] == label] for label in (True, False))
    chosen = {place for some in by_label for place in some[:each]}
    return [place for place in drawn if place in chosen]


def rollout_row(row: dict[str, Any], places: Sequence[int], template: str) -> dict[str, Any]:
    """A row as ipr-rollout writes it, with the model of each response."""
    return {
        "id": row["problem_id"],
        "prompt": build_prompt(row["problem"], TextConfig(prompt_template=template)),
        "answer": row["answer"],
        "completions": [row["responses"][place] for place in places],
        "correctness": [row["correct"][place] for place in places],
        "finished": [True] * len(places),
        "models": [row["models"][place] for place in places],
    }


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows, and print their numbers and the file's fingerprint."""
    content = "".join(f"{to_json(row)}\n" for row in rows).encode()
    with atomic_write(path) as stream:
        stream.write(content)
    labels = [label for row in rows for label in row["correctness"]]
    models = {model for row in rows for model in row["models"]}
    print(
        f"{path}: {len(rows)} problems, {len(labels)} responses, {sum(labels)} correct, {len(models)} models, "
        f"sha256 {hashlib.sha256(content).hexdigest()[:16]}"
    )


def main() -> None:
    options = parse()
    left_out: Counter[str] = Counter()
    suitable = []
    rows = read_rows(options.pool)
    rows.require(("problem_id", "problem", "answer", "models", "responses", "correct"))
    for row in rows:
        places = usable(row, options.min_characters, options.max_characters, left_out)
        right = sum(row["correct"][place] for place in places)
        if min(right, len(places) - right) >= options.at_least:
            suitable.append((row, places))
    print(f"{options.pool}: {len(rows)} problems, {len(suitable)} suitable; responses left out: {json.dumps(left_out)}")
    if options.held_out >= len(suitable):
        raise SystemExit(f"prepare_multimodel: --held-out {options.held_out} leaves none of {len(suitable)} problems")
    random.Random(options.seed).shuffle(suitable)
    parts = {
        "held_out": (suitable[: options.held_out], options.held_out_each),
        "train": (suitable[options.held_out :], options.each),
    }
    for name, (part, each) in parts.items():
        chosen = [(row, select(row, places, each, options.seed)) for row, places in part]
        write(options.out / f"{name}.jsonl", [rollout_row(row, some, options.prompt_template) for row, some in chosen])


if __name__ == "__main__":
    main()
