r"""Rewrites of a response that keep its meaning: variables, number formats, step headers, blank lines, operands.

Each is a deterministic function of the problem and the response. It returns the rewritten response, the same response
if there is nothing to rewrite, or None if it might change the meaning: in code, where `x` is a multiplication sign,
where commas separate numbers, and so on. The rules err on the side of None.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from implicit_prm.config import RewriteName
from implicit_prm.rewards.step_splitting import split_steps
from implicit_prm.rewards.unsplittable import unsplittable_blocks

Rewrite = Callable[[str, str], str | None]

# Letters that are rarely a unit, an article, a constant, or the number of an item.
_VARIABLES = "xyzuvwnqr"
_WORD = re.compile(r"\\\\|\\?[A-Za-z]+")  # a line break of LaTeX, a command, or a word
# Any other short word may be a product of variables, such as xy, or a differential, such as dx.
_SHORT_WORDS = re.compile(
    "an|and|any|are|bar|box|but|buy|by|can|cut|day|due|end|few|for|fun|get|got|her|how|hr|in|low|may|min|new|nd|no|non|"
    "nor|not|now|nth|num|on|one|or|our|out|own|pay|per|put|raw|rd|row|run|say|six|sum|sun|ten|than|try|tax|two|up|us|"
    "use|vs|via|was|way|we|who|why|won|yes|yet|you",
    re.IGNORECASE,
)
# Where x and y are the names of directions: "the x-axis", "the vertical line x = 6".
_COORDINATES = re.compile(
    r"\b[xyz]-[a-z]|\b(?:axis|axes|coordinates?|graph|plane|slope|vertical|horizontal|parabola|quadrant)", re.IGNORECASE
)
_TIMES = re.compile(r"\d\s*x\s*\d|[\d)\]}%]\s+x\s+[\d(\[{$\\]")

_CODE_OR_TABLE = re.compile(r"```|^\s*\|", re.MULTILINE)
_OTHER_BASE = re.compile(r"\bbase\b|binary|hexadecimal|octal", re.IGNORECASE)
_GROUPED = r"\d{1,3}(?:,\d{3})+"
_BARE_COMMA = re.compile(r"\d,\d")
# A number between these stands by itself: no index, exponent, argument, decimal or fraction.
_LEFT, _RIGHT = r"(?<![^\s=+*$-])", r"(?![^\s=+*$.,;?!-]|[.,]\d)"
_WHOLE = re.compile(rf"{_LEFT}[1-9]\d{{3,}}{_RIGHT}")
_WITH_COMMAS = re.compile(rf"{_LEFT}[1-9]\d{{0,2}}(?:,\d{{3}})+{_RIGHT}")
_OPERATOR = r" [+*=×·] "
# Not the beginning of 3 1/2 or of 12 000.
_OPERAND = re.compile(rf"(?<![^\s$])\d+(?={_OPERATOR})|(?<={_OPERATOR})\d+(?![^\s$.,;]|[.,]\d| \d)")

_STEP_MENTION = re.compile(r"\bstep\s*\d", re.IGNORECASE)
_HEADER = re.compile(r"^Step \d+: (?=\S)", re.MULTILINE)
_LINE_END = re.compile(r"(?<!\n)\n(?!\s*(?:\n|\Z))")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
# Two operands and no more: at the start of a line, an equation or a bracket, and directly before an equals sign.
_TWO_OPERANDS = re.compile(
    r"(?:^|(?<=[=:] )|(?<=\()|(?<=\( ))(\d+(?:\.\d+)?)( [+*×] )(\d+(?:\.\d+)?)(?= = (?!\$))", re.MULTILINE
)


def rename_variables(problem: str, response: str) -> str | None:
    """Other letters for the variables that the response introduces; those of the problem keep their names."""
    given, words = (set(_WORD.findall(text)) for text in (problem, response))
    own = [letter for letter in _VARIABLES if letter in words and letter not in given]
    if not own:
        return response
    free = [letter for letter in _VARIABLES if letter not in words | given]
    letters = {word for word in words | given if len(word) == 1}
    products = [
        word
        for word in words - letters
        if letters.issuperset(word) or (word.isalpha() and len(word) < 4 and not _SHORT_WORDS.fullmatch(word))
    ]
    if (
        _CODE_OR_TABLE.search(response)
        or len(free) < len(own)
        or any(letter in word for word in products for letter in own)
        or _COORDINATES.search(problem + response)
        or ("x" in own and _TIMES.search(response))
    ):
        return None
    names = dict(zip(own, free, strict=False))
    return _WORD.sub(lambda word: names.get(word[0], word[0]), response)


def add_thousands_separators(problem: str, response: str) -> str | None:
    """1000 as 1,000. Numbers from 1900 to 2099 may be years and stay."""
    if not _WHOLE.search(response):
        return response
    if _commas_are_unclear(problem, response):
        return None
    return _WHOLE.sub(lambda n: n[0] if len(n[0]) == 4 and n[0][:2] in ("19", "20") else f"{int(n[0]):,}", response)


def remove_thousands_separators(problem: str, response: str) -> str | None:
    """1,000 as 1000."""
    if not _WITH_COMMAS.search(response):
        return response
    if _commas_are_unclear(problem, response):
        return None
    return _WITH_COMMAS.sub(lambda number: number[0].replace(",", ""), response)


def add_decimals(problem: str, response: str) -> str | None:
    """12 + 7 = 19 as 12.0 + 7.0 = 19.0: the whole numbers beside a sign with spaces around it."""
    if not _OPERAND.search(response):
        return response
    if _CODE_OR_TABLE.search(response) or _OTHER_BASE.search(problem + response):
        return None
    return _OPERAND.sub(lambda number: f"{number[0]}.0", response)


def add_step_headers(problem: str, response: str) -> str | None:
    """`Step k: ` before every paragraph, or before every line if there is one paragraph only."""
    if _CODE_OR_TABLE.search(response) or _STEP_MENTION.search(response):
        return None
    spans = split_steps(response, "blank_line" if _BLANK_LINES.search(response.strip()) else "newline")
    parts = []
    for number, span in enumerate(spans, 1):
        step = response[span.start : span.end]
        words = step.lstrip()
        parts.append(f"{step[: len(step) - len(words)]}Step {number}: {words}" if words else step)
    return "".join(parts)


def remove_step_headers(problem: str, response: str) -> str | None:
    """No `Step k: ` before lines. Refused if a step is mentioned elsewhere."""
    headers = len(_HEADER.findall(response))
    if not headers:
        return response
    if _CODE_OR_TABLE.search(response) or len(_STEP_MENTION.findall(response)) > headers:
        return None
    return _HEADER.sub("", response)


def add_blank_lines(problem: str, response: str) -> str | None:
    """A blank line after every line, except within display math."""
    return _outside_displays(_LINE_END, "\n\n", response)


def remove_blank_lines(problem: str, response: str) -> str | None:
    """No blank lines, except within display math."""
    return _outside_displays(_BLANK_LINES, "\n", response)


def swap_operands(problem: str, response: str) -> str | None:
    """12 + 7 = 19 as 7 + 12 = 19: sums and products of two numbers."""
    if _CODE_OR_TABLE.search(response):
        return None
    return _TWO_OPERANDS.sub(r"\3\2\1", response)


REWRITES: dict[RewriteName, Rewrite] = {
    "rename_variables": rename_variables,
    "add_thousands_separators": add_thousands_separators,
    "remove_thousands_separators": remove_thousands_separators,
    "add_decimals": add_decimals,
    "add_step_headers": add_step_headers,
    "remove_step_headers": remove_step_headers,
    "add_blank_lines": add_blank_lines,
    "remove_blank_lines": remove_blank_lines,
    "swap_operands": swap_operands,
}


def _commas_are_unclear(problem: str, response: str) -> bool:
    """Whether 1,000 could be read as a list, or a number as one that is not decimal."""
    rest = re.sub(_GROUPED, "", response)
    return bool(_CODE_OR_TABLE.search(response) or _OTHER_BASE.search(problem + response) or _BARE_COMMA.search(rest))


def _outside_displays(pattern: re.Pattern[str], new: str, response: str) -> str | None:
    if _CODE_OR_TABLE.search(response):
        return None
    displays = unsplittable_blocks(response)
    return pattern.sub(lambda m: m[0] if any(start <= m.start() < end for start, end in displays) else new, response)
