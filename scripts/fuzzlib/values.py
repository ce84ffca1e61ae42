"""Hostile values, and mutations of texts, bytes and nested rows. Everything is drawn from a seeded generator."""

from __future__ import annotations

import copy
import json
import math
from random import Random
from typing import Any

PIECES = (
    *(
        "\n",
        "\n\n",
        " ",
        "\t",
        "\r\n",
        "\0",
        "\x1b[31m",
        "\u2028",
        "\u202e",
        "\ufeff",
        "\ud800",
        "\udfff",
        "é",
        "😀",
        "日本",
    ),
    *(
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "<",
        ">",
        '"',
        "'",
        "`",
        "```",
        "$",
        "$$",
        "\\",
        "\\\\",
        "#",
        "####",
        "*",
        "**",
        "|",
    ),
    *("\\boxed{", "\\boxed", "\\fbox{", "\\frac{", "\\frac12", "\\text{", "\\sqrt{", "\\left(", "\\begin{align}"),
    *(
        "\\end{align}",
        "\\[",
        "\\]",
        "\\(",
        "\\)",
        "^",
        "_",
        "^{",
        "9^{9^",
        "!",
        "%",
        "\\%",
        "&",
        "~",
        "1",
        "-1",
        "0.5",
        ",",
    ),
    *(
        "1,000",
        "1/0",
        "2x",
        " + ",
        " = ",
        "\\cdot ",
        "x",
        "abc",
        "the answer is ",
        "Answer: ",
        "Step 1:",
        "## Step 2.",
        "and ",
    ),
    *("<script>alert(1)</script>", "</script>", "<!--", "{{ 7 * 7 }}", "{% for x in y %}", "{problem}", "%s", "{0}"),
    *(
        "<think>",
        "</think>",
        "<|im_start|>",
        "<|im_end|>",
        "<s>",
        "</s>",
        "[INST]",
        "<bos>",
        "<eos>",
        "../",
        "hf://",
        "://:a@b?k=c",
    ),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, 1e308, -1e308, 1e-320, math.nan, math.inf, 10**30, 10**400, 2**63),
    *(
        "",
        " ",
        "true",
        "0",
        "null",
        "nan",
        [],
        [[]],
        [None],
        {},
        {"": None},
        [{}],
        {"text": "x"},
        [["x"]],
        [True],
        [0.5],
    ),
    *(
        [{"role": "user", "content": "x"}],
        [{"role": "assistant", "content": None}],
        {"role": "user"},
        "x" * 5000,
        [0] * 500,
    ),
)


def text(rng: Random, pieces: int = 40) -> str:
    """A text of pieces that mean something to a parser, some of them repeated many times."""
    parts = []
    for _ in range(rng.randrange(1, pieces)):
        repeats = rng.choice((1, 1, 1, 1, 2, 3, 50, 400)) if rng.random() < 0.3 else 1
        parts.append(rng.choice(PIECES) * repeats)
    return "".join(parts)


def value(rng: Random) -> Any:
    """Any value that JSON or a caller may hold."""
    return text(rng) if rng.random() < 0.4 else copy.deepcopy(rng.choice(VALUES))


def mutated(whole: Any, rng: Random, changes: int | None = None) -> Any:
    """A copy of a nested value with some of its parts replaced, removed, renamed, repeated or swapped."""
    whole = copy.deepcopy(whole)
    for _ in range(changes or rng.choice((1, 1, 1, 1, 1, 2, 4))):
        whole = _changed(whole, rng)
    return whole


def _changed(whole: Any, rng: Random) -> Any:
    if not isinstance(whole, dict | list) or not whole or rng.random() < 0.03:
        return mutated_text(whole, rng) if isinstance(whole, str) and rng.random() < 0.5 else value(rng)
    keys: list[Any] = list(whole) if isinstance(whole, dict) else list(range(len(whole)))
    key = rng.choice(keys)
    action = rng.random()
    if action < 0.7:
        whole[key] = _changed(whole[key], rng)
    elif action < 0.8:
        del whole[key]
    elif isinstance(whole, dict):
        whole[rng.choice((text(rng, 3), rng.choice(keys)))] = whole.pop(key) if action < 0.9 else value(rng)
    elif action < 0.9:
        whole.insert(rng.randrange(len(whole) + 1), copy.deepcopy(whole[key]))
    else:
        rng.shuffle(whole)
    return whole


def mutated_text(whole: str, rng: Random) -> str:
    """A text with a part removed, repeated or replaced, or with a hostile piece in it."""
    start = rng.randrange(len(whole) + 1)
    end = rng.randrange(start, min(len(whole), start + 20) + 1)
    middle = rng.choice(("", text(rng, 4), whole[start:end] * rng.choice((2, 50)), rng.choice(PIECES)))
    return whole[:start] + middle + whole[end:]


def damaged(whole: bytes, rng: Random) -> bytes:
    """A file's content: cut off, overwritten, doubled, with bytes flipped or inserted, or of another kind."""
    start = rng.randrange(len(whole) + 1)
    if rng.random() < 0.3:
        start = rng.randrange(min(len(whole), 200) + 1)  # headers
    size = rng.choice((1, 1, 4, 8, 200))
    junk = bytes(rng.randrange(256) for _ in range(size))
    return rng.choice(
        (
            whole[:start],
            whole[start:],
            whole[:start] + junk + whole[start + size :],
            whole[:start] + junk + whole[start:],
            whole[:start] + whole[start + size :],
            whole + whole[start:],
            whole[:start] + b"\0" * size + whole[start + size :],
            rng.choice(
                (
                    b"",
                    b"{}",
                    b"[]",
                    b"null",
                    b"\xff\xfe",
                    b"[" * 100_000,
                    b'{"a":' * 5000,
                    b"version https://git-lfs",
                    junk,
                )
            ),
        )
    )


def json_lines(rows: Any) -> str:
    """Rows as JSON lines, with escapes for all that is not ASCII."""
    return "".join(json.dumps(row) + "\n" for row in (rows if isinstance(rows, list) else [rows]))
