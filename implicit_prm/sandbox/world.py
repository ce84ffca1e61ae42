r"""Chains of sums and products modulo 50: problems, the solvers' false beliefs, an exact step checker.

A problem is "Modulo 50, left to right: 12 + 7 * 3 + 4". Its solution has a line for each operation and a last line for
the answer, "12 + 7 = 19\n19 * 3 = 7\n7 + 4 = 11\n\\boxed{11}". Each line uses one of only 800 facts, so that a tiny
model can memorise them all, false ones included.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from implicit_prm.types import ImplicitPRMError, Problem

MODULUS = 50
OPERANDS = range(2, 10)
CHAIN_LENGTHS = range(3, 7)
PREAMBLE = f"Modulo {MODULUS}, left to right: "
SIZES = {"train": 4000, "dev": 500, "test": 1000}

_RESIDUE = r"([1-4]?\d)"  # 0 to 49 without leading zeros
_PROBLEM = re.compile(rf"{PREAMBLE}{_RESIDUE}((?: [+*] [2-9])+)", re.ASCII)
_STEP = re.compile(rf"{_RESIDUE} ([+*]) (\d) = {_RESIDUE}", re.ASCII)
_HEADER = re.compile(r"^Step \d+: ")
_DECIMAL = re.compile(r"(?<=\d)\.0(?!\d)")
_SWAPPED = re.compile(rf"([2-9]) ([+*]) {_RESIDUE} = {_RESIDUE}", re.ASCII)
_BOXED = re.compile(rf"\\boxed\{{{_RESIDUE}\}}", re.ASCII)


class Fact(NamedTuple):
    """The operation `residue symbol operand` modulo 50."""

    residue: int
    symbol: str
    operand: int

    @property
    def truth(self) -> int:
        total = self.residue + self.operand if self.symbol == "+" else self.residue * self.operand
        return total % MODULUS


class Misconception(NamedTuple):
    """A wrong value of a fact, and the probability that it is used instead of the true one."""

    value: int
    probability: float


FACTS = tuple(Fact(residue, symbol, operand) for residue in range(MODULUS) for symbol in "+*" for operand in OPERANDS)


def misconceptions(seed: int = 0, share: float = 0.4) -> dict[Fact, Misconception]:
    """False beliefs about a `share` of the facts: each a fixed wrong value, used with a probability in [0.25, 0.75].

    Probabilities on both sides of one half make majority votes fallible while correct answers stay common.
    """
    rng = random.Random(seed)
    beliefs = {}
    for fact in rng.sample(FACTS, round(share * len(FACTS))):
        wrong = (fact.truth + rng.randrange(1, MODULUS)) % MODULUS
        beliefs[fact] = Misconception(wrong, rng.uniform(0.25, 0.75))
    return beliefs


def split_of(text: str) -> str:
    """The split of a problem text, independent of any seed, so that no test problem occurs in training."""
    return {0: "test", 1: "dev"}.get(zlib.crc32(text.encode()) % 8, "train")


def random_text(rng: random.Random) -> str:
    """The text of a random problem, of any split."""
    start, count = rng.randrange(MODULUS), rng.choice(CHAIN_LENGTHS)
    return f"{PREAMBLE}{start}" + "".join(f" {rng.choice('+*')} {rng.choice(OPERANDS)}" for _ in range(count))


def problems(split: str, limit: int | None = None, seed: int = 0) -> list[Problem]:
    """Distinct problems of a split: the first `limit` (which may exceed the usual size), or 4000 / 500 / 1000.

    Raises:
        ImplicitPRMError: unknown split, or a negative limit.
    """
    if split not in SIZES:
        raise ImplicitPRMError(f"unknown sandbox split {split!r}; choose one of {', '.join(SIZES)}")
    wanted = SIZES[split] if limit is None else limit
    if wanted < 0:
        raise ImplicitPRMError(f"limit must not be negative, got {limit}")
    rng = random.Random(f"{split}-{seed}")
    texts: dict[str, None] = {}  # an ordered set
    while len(texts) < wanted:
        text = random_text(rng)
        if split_of(text) == split:
            texts[text] = None
    return [
        Problem(id=f"sandbox-{split}-{number:05d}", text=text, answer=str(_solve(text, _truth)[-1][1]))
        for number, text in enumerate(texts)
    ]


def solution(problem: Problem, recall: Callable[[Fact], int]) -> str:
    """The response of a solver whose value for each fact is `recall(fact)`, a number in 0..49.

    Raises:
        ImplicitPRMError: the problem is not one of the sandbox's.
    """
    steps = _solve(problem.text, recall)
    lines = [f"{fact.residue} {fact.symbol} {fact.operand} = {value}" for fact, value in steps]
    return "\n".join([*lines, f"\\boxed{{{steps[-1][1]}}}"])


def true_solution(problem: Problem) -> str:
    """The response that is correct in every step."""
    return solution(problem, _truth)


def believed_solution(problem: Problem, beliefs: Mapping[Fact, Misconception], rng: random.Random) -> str:
    """A response under false beliefs: each use of a fact takes its wrong value with its probability."""

    def recall(fact: Fact) -> int:
        belief = beliefs.get(fact)
        return belief.value if belief and rng.random() < belief.probability else fact.truth

    return solution(problem, recall)


def check_steps(problem_text: str, response: str, lenient: bool = False) -> list[bool]:
    r"""Is each step correct? One bool per line that is not blank (one in all for blank text). Never raises.

    A step is correct if it applies the problem's next operation correctly to the value stated last: an error counts
    once, and steps that follow correctly from a wrong value are correct. The \boxed line is correct if it repeats the
    value stated last and no operation is left. Any other line, and any line after the answer, is wrong.

    Args:
        problem_text: the problem.
        response: to check.
        lenient: also read a header `Step k: ` before a line, `12.0` for `12`, and the two operands in either order.
    """
    lines = [line for line in response.split("\n") if line.strip()] or [response] * bool(response)
    parsed = _parse(problem_text)
    if parsed is None:
        return [False] * len(lines)
    value, pending = parsed
    verdicts, answered = [], False
    for line in lines:
        if lenient:
            line = _plain(line, pending)
        right = False
        boxed = _BOXED.fullmatch(line)
        if step := _STEP.fullmatch(line):
            fact = Fact(int(step[1]), step[2], int(step[3]))
            if pending and pending[0] == (fact.symbol, fact.operand):
                right = fact.residue == value and fact.truth == int(step[4])
                pending = pending[1:]
            value = int(step[4])
        elif boxed:
            right = int(boxed[1]) == value and not pending
        verdicts.append(right and not answered)
        answered = answered or boxed is not None
    return verdicts


def _plain(line: str, pending: list[tuple[str, int]]) -> str:
    """The line without header and decimals, and with the operands in the order of the next operation."""
    line = _DECIMAL.sub("", _HEADER.sub("", line))
    swapped = _SWAPPED.fullmatch(line)
    if swapped and pending[:1] == [(swapped[2], int(swapped[1]))]:
        return f"{swapped[3]} {swapped[2]} {swapped[1]} = {swapped[4]}"
    return line


def _truth(fact: Fact) -> int:
    return fact.truth


def _parse(text: str) -> tuple[int, list[tuple[str, int]]] | None:
    """Start value and operations of a problem text; None for other texts."""
    match = _PROBLEM.fullmatch(text)
    if match is None:
        return None
    words = match[2].split()
    return int(match[1]), [(symbol, int(operand)) for symbol, operand in zip(words[::2], words[1::2], strict=True)]


def _solve(text: str, recall: Callable[[Fact], int]) -> list[tuple[Fact, int]]:
    """The facts that a solution uses, in order, with the recalled value of each."""
    parsed = _parse(text)
    if parsed is None:
        raise ImplicitPRMError(f"not a sandbox problem: {text!r}; expected a text such as '{PREAMBLE}12 + 7 * 3 + 4'")
    value, operations = parsed
    steps = []
    for symbol, operand in operations:
        fact = Fact(value, symbol, operand)
        value = recall(fact)
        steps.append((fact, value))
    return steps
