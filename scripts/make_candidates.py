r"""Make a file of candidates for `ipr-eval` of any size, to measure grading and votes at scale.

    python scripts/make_candidates.py --problems 500 --responses 64 --output outputs/candidates.jsonl
    ipr-eval candidates=outputs/candidates.jsonl scores_column=scores scores_kind=probability output_dir=outputs/eval

With `--pool`, a file of grouped rows with problem, answer and responses[], texts and answers are drawn from it. A pool
is used as often as needed: each time, all numbers in the answers are larger by one, so that answers have realistic
forms and no problem repeats another. Without a pool, problems and answers are made up. One response in ten has a slip
in a number of its answer. The column `scores` holds a random probability for each step. The same options give the same
file.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from implicit_prm.data.groups import load_groups
from implicit_prm.grading.extraction import find_answer
from implicit_prm.utils.io import atomic_write

# Right answer, the same in another form, and wrong answers; %d is a number that differs between problems.
MADE_UP = (
    ("%d", r"%d.0", "3%d", "-%d"),
    (r"\frac{1}{%d}", r"1/%d", r"\frac{2}{%d}", "%d"),
    (r"\sqrt{%d}", r"\frac{%d}{\sqrt{%d}}", r"2\sqrt{%d}", r"\sqrt[3]{%d}"),
    (r"(%d, 2)", r"\left( %d, 2 \right)", r"(2, %d)", r"(%d, 3)"),
    (r"[%d, \infty)", r"x \ge %d", r"(%d, \infty)", r"x < %d"),
    (r"x^2 + %d", r"%d + x^2", r"x^2 - %d", r"%dx^2"),
)
SLIPS = 0.1
_NUMBER = re.compile(r"\d+")

# A problem: its text, the right answer, and the texts of responses before their answer, with the answer.
Drawn = tuple[str, str, list[tuple[str, str]]]


def from_pool(path: str, rng: random.Random) -> Iterator[Drawn]:
    """The problems of a pool, again and again, with larger numbers in each round."""
    groups = load_groups(path, graded=False)
    for added in range(1_000_000):
        for group in groups:
            found = [(text, find_answer(text)[0]) for text in group.completions]
            responses = [
                (text.split(r"\boxed")[0], _add(answer, added)) for text, answer in found if answer is not None
            ]
            if responses and group.answer is not None:
                yield f"{group.prompt} (version {added})", _add(group.answer, added), responses


def made_up(rng: random.Random) -> Iterator[Drawn]:
    """Problems whose answers are numbers, fractions, surds, points, intervals and polynomials."""
    for number in range(2, 1_000_000):
        forms = [form.replace("%d", str(number)) for form in MADE_UP[number % len(MADE_UP)]]
        working = [f"Step {step}: {rng.randrange(100)} + {rng.randrange(100)}.\n\n" for step in range(8)]
        yield f"Problem {number}", forms[0], [("".join(rng.sample(working, 6)), form) for form in forms]


def rows(problems: int, responses: int, pool: str | None, rng: random.Random) -> Iterator[dict[str, Any]]:
    """The rows of a file of candidates, without labels."""
    drawn = made_up(rng) if pool is None else from_pool(pool, rng)
    for number, (problem, answer, known) in zip(range(problems), drawn, strict=False):
        chosen = [rng.choice(known) for _ in range(responses)]
        yield {
            "id": f"made-{number:05d}",
            "problem": problem,
            "answer": answer,
            "responses": [f"{text}The answer is $\\boxed{{{_slip(value, rng)}}}$." for text, value in chosen],
            "scores": [[round(rng.random(), 6) for _ in range(rng.randrange(4, 10))] for _ in chosen],
        }


def _add(answer: str, added: int) -> str:
    return _NUMBER.sub(lambda number: str(int(number[0]) + added), answer) if added else answer


def _slip(answer: str, rng: random.Random) -> str:
    """The answer, or with a probability of `SLIPS` the answer with another number in it."""
    numbers = list(_NUMBER.finditer(answer))
    if not numbers or rng.random() >= SLIPS:
        return answer
    place = rng.choice(numbers)
    return f"{answer[: place.start()]}{int(place[0]) + rng.randrange(1, 50)}{answer[place.end() :]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--responses", type=int, default=64, help="responses to each problem")
    parser.add_argument("--pool", help="grouped rows with problem, answer and responses[]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs/candidates.jsonl"))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with atomic_write(options.output) as stream:
        for row in rows(options.problems, options.responses, options.pool, rng):
            stream.write((json.dumps(row) + "\n").encode())
    print(options.output)


if __name__ == "__main__":
    main()
