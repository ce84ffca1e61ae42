r"""Code blocks and display math: the parts of a response that no step rule splits.

Recognised are Markdown code fences (three backticks or more at the start of a line), `$$ ... $$`, `\[ ... \]`, and
LaTeX's display environments (`\begin{align*} ... \end{align*}` and its relatives).

A block without an end, as in a response that was cut off, is not a block: its lines are split like any others, so a
missing delimiter cannot swallow the rest of the response. Of several opening delimiters before one closing delimiter,
the last one opens the block. `$$` opens and closes alike: if their number is odd, the one without a partner is that
whose removal leaves the shortest blocks.
"""

from __future__ import annotations

import re
from itertools import pairwise

_FENCE = re.compile(r"^[^\S\n]*(`{3,})([^`\n]*)$", re.MULTILINE)
_DISPLAYS = "align|alignat|displaymath|eqnarray|equation|flalign|gather|multline"
# Not after a backslash: "\\[2pt]" is a line break with a distance, "\$" a dollar sign.
_DELIMITER = re.compile(rf"(?<!\\)(?:\$\$|\\\[|\\\]|\\(?:begin|end)\{{(?:{_DISPLAYS})\*?\}})")


def unsplittable_blocks(text: str) -> list[tuple[int, int]]:
    """Character ranges [start, end) of the closed code blocks and displays of `text`, sorted by start.

    Ranges may overlap, as an environment inside `$$` does. The time is linear in the length of the text.
    """
    code = _code_blocks(text)
    # Delimiters in code mean nothing, and no display reaches over a code block.
    edges = [0, *(edge for block in code for edge in block), len(text)]
    prose = list(pairwise(edges))[::2]
    return sorted(code + [block for start, end in prose for block in _displays(text, start, end)])


def _code_blocks(text: str) -> list[tuple[int, int]]:
    blocks: list[tuple[int, int]] = []
    opening: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        names_language = bool(fence[2].strip())
        if opening is None or names_language:
            opening = fence
        elif len(fence[1]) >= len(opening[1]):
            blocks.append((opening.start(), fence.end()))
            opening = None
    return blocks


def _displays(text: str, start: int, end: int) -> list[tuple[int, int]]:
    blocks: list[tuple[int, int]] = []
    dollars: list[re.Match[str]] = []
    opened: dict[str, int] = {}  # by the delimiter that closes it
    for delimiter in _DELIMITER.finditer(text, start, end):
        name = delimiter[0]
        if name == "$$":
            dollars.append(delimiter)
        elif name == r"\[" or name.startswith(r"\begin"):
            opened[r"\]" if name == r"\[" else name.replace("begin", "end")] = delimiter.start()
        elif name in opened:
            blocks.append((opened.pop(name), delimiter.end()))
    if len(dollars) % 2:
        del dollars[_without_partner([dollar.start() for dollar in dollars])]
    return blocks + [(first.start(), second.end()) for first, second in zip(dollars[::2], dollars[1::2], strict=True)]


def _without_partner(positions: list[int]) -> int:
    """Which of an odd number of delimiters to leave out so that the pairs of the others are closest together."""
    gaps = [second - first for first, second in pairwise(positions)]
    length = shortest = sum(gaps[1::2])  # without the first
    left_out = 0
    for place, (gap, next_gap) in enumerate(zip(gaps[::2], gaps[1::2], strict=True), 1):
        length += gap - next_gap  # without the delimiter two places on instead
        if length < shortest:
            shortest, left_out = length, 2 * place
    return left_out
