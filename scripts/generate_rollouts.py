"""Write a file of graded responses of any size, to measure the library at the size of a real data set.

    python scripts/generate_rollouts.py outputs/large.jsonl        # 32,942 prompts x 8 responses, 465 MB
    python scripts/generate_rollouts.py outputs/rollouts.jsonl --prompts 30000 --problems outputs/problems.jsonl

The responses look like those of a mathematics data set: lengths are log-normal, and steps, which blank lines separate,
hold sentences, formulas and numbers, so a tokenizer has as much to do as on real ones. The same arguments write the
same bytes. The rows have the columns of `ipr-rollout`; `--problems` also writes the problems, to resume with.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

NAMES = ("Ada", "Ben", "Carla", "Dmitri", "Elena", "Farid", "Grace", "Hiro", "Ines", "Jamal", "Keiko", "Liam", "Noor")
THINGS = ("apples", "marbles", "tickets", "stamps", "coins", "pencils", "shells", "cards", "bricks", "roses", "letters")
REASONS = (
    "Since both sides of the equation are positive, we can compare them directly",
    "Let $x$ denote the number of {thing} that {name} has at the beginning",
    "Substituting this into the previous equation and collecting the terms on the left",
    "By the distributive property the expression can be written as a sum of two products",
    "We check the result by computing the same quantity in another way",
    "The remaining {thing} are divided equally, so the remainder has to be zero",
    "Note that {name} gives away only whole {thing}, which means that $x$ is an integer",
    "Using the formula for the sum of an arithmetic sequence with common difference {a}",
)
FORMULAS = (
    "$${a} \\times {b} = {product}$$",
    "\\[\\frac{{{a}}}{{{b}}} + \\frac{{{b}}}{{{a}}} = \\frac{{{squares}}}{{{product}}}\\]",
    "$({a} + {b})^2 = {a}^2 + 2 \\cdot {a} \\cdot {b} + {b}^2 = {squared}$",
    "$x = {product} - {a} = {difference}$",
)


def step(rng: random.Random, number: int) -> str:
    a, b = rng.randrange(2, 100), rng.randrange(2, 100)
    values = {
        "a": a,
        "b": b,
        "product": a * b,
        "squares": a * a + b * b,
        "squared": (a + b) ** 2,
        "difference": a * b - a,
        "name": rng.choice(NAMES),
        "thing": rng.choice(THINGS),
    }
    sentences = ". ".join(rng.choice(REASONS).format(**values) for _ in range(rng.randrange(1, 3)))
    return f"Step {number}: {sentences}.\n{rng.choice(FORMULAS).format(**values)}"


def response(rng: random.Random, answer: int, correct: bool, characters: float) -> str:
    length, parts, size = characters * rng.lognormvariate(-0.125, 0.5), [], 0
    while size < length:
        parts.append(step(rng, len(parts) + 1))
        size += len(parts[-1])
    final = answer if correct else answer + rng.randrange(1, 10)
    return "\n\n".join([*parts, f"The answer is $\\boxed{{{final}}}$."])


def row(rng: random.Random, number: int, responses: int, characters: float) -> dict[str, Any]:
    a, b, name, thing = rng.randrange(2, 100), rng.randrange(2, 100), rng.choice(NAMES), rng.choice(THINGS)
    share = rng.random()
    correct = [rng.random() < share for _ in range(responses)]
    return {
        "id": f"generated-{number:06d}",
        "prompt": f"Problem {number}: {name} fills {a} boxes with {b} {thing} each. How many {thing} are there in all?",
        "answer": str(a * b),
        "completions": [response(rng, a * b, label, characters) for label in correct],
        "correctness": correct,
        "verdicts": ["correct" if label else "incorrect" for label in correct],
        "answer_rules": ["boxed"] * responses,
        "finished": [True] * responses,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--problems", type=Path, help="also write the problems to this file")
    parser.add_argument("--prompts", type=int, default=32_942)
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--characters", type=float, default=1_515, help="mean length of a response")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    rows = (row(rng, n, options.responses, options.characters) for n in range(options.prompts))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    problems = []
    with options.output.open("w", encoding="utf-8") as stream:
        for one in rows:
            stream.write(json.dumps(one, ensure_ascii=False) + "\n")
            problems.append({"id": one["id"], "problem": one["prompt"], "answer": one["answer"]})
    if options.problems:
        options.problems.write_text("".join(json.dumps(problem) + "\n" for problem in problems), encoding="utf-8")
    print(f"{options.output}: {len(problems)} prompts, {options.output.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
