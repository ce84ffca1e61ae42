"""Split a response into steps, and assign its tokens to them.

For any rule and any text, the spans of the steps cover the response exactly, in order:

* A step starts at the start of a line, or at white space within a line (rule `given`). The line breaks that separate
  two steps end the first one; the indentation of the next line belongs to the next step.
* White space before the first step belongs to the first step.
* No rule splits inside a code block or display math (see `implicit_prm.rewards.unsplittable`), except `given`, which
  takes the steps as they are.

A token belongs to the step whose first non-space character it holds, else to the step that it starts in. Many
vocabularies write a word with the space before it (" The"), so the indentation of a step and its first word share a
token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from implicit_prm.rewards.unsplittable import unsplittable_blocks
from implicit_prm.types import ImplicitPRMError, StepSpan

RULES = ("blank_line", "newline", "step_marker", "given")
# "Step 3:" at the start of a line, also as "## Step 3:" or "**Step 3:**".
_MARKER = re.compile(r"[#*>\s]*Step\s+\d+\s*[:.]", re.IGNORECASE)


def split_steps(text: str, rule: str = "blank_line", given: Sequence[str] | None = None) -> list[StepSpan]:
    """Character spans of the steps of `text`. They cover it exactly, in order; an empty text has no steps.

    Args:
        text: the response.
        rule: where a step starts. `blank_line`: at the first line after a blank line. `newline`: at every line that is
            not blank. `step_marker`: at every line that starts with "Step k:". `given`: at the steps listed in `given`.
        given: for the rule `given`, the texts of the steps in order, as they stand in `text`. White space around each
            may differ.

    Returns:
        [S] spans. Only a text of nothing but white space has a step without a word.

    Raises:
        ImplicitPRMError: unknown rule, or a given step that the text does not contain after the previous one.
    """
    if rule not in RULES:
        raise ImplicitPRMError(f"unknown step rule {rule!r}; choose one of {', '.join(RULES)}")
    if not text:
        return []
    starts = _given_starts(text, given) if rule == "given" else _line_starts(text, rule)
    if starts and not text[: starts[0]].strip():
        starts = starts[1:]  # the first step also holds the white space before it
    return [StepSpan(start, end) for start, end in pairwise([0, *starts, len(text)])]


def _line_starts(text: str, rule: str) -> list[int]:
    """Where steps start by a rule that reads lines: the starts of lines that are not blank, outside of blocks."""
    blocks, block_end = iter(unsplittable_blocks(text)), 0
    next_block = next(blocks, None)
    starts, start, after_blank = [], 0, True
    for line in text.split("\n"):
        while next_block is not None and next_block[0] < start:
            block_end = max(block_end, next_block[1])
            next_block = next(blocks, None)
        blank = not line.strip()
        follows_rule = _MARKER.match(line) if rule == "step_marker" else rule == "newline" or after_blank
        if follows_rule and not blank and start >= block_end:
            starts.append(start)
        after_blank, start = blank, start + len(line) + 1
    return starts


def _given_starts(text: str, given: Sequence[str] | None) -> list[int]:
    """Where the given steps start, each with the white space before it on its line."""
    if not given:
        raise ImplicitPRMError("the step rule 'given' needs the steps of each response (column `steps`)")
    starts, position = [], 0
    for number, step in enumerate(given):
        words = step.strip()
        if not words:
            raise ImplicitPRMError(f"given step {number} is empty; remove it or use another step rule")
        found = text.find(words, position)
        if found < 0:
            raise ImplicitPRMError(
                f"given step {number} ({words[:60]!r}) is not in the response after the previous step; the steps must "
                "be parts of the response, in order. Use another step rule to split the response itself"
            )
        gap = text[position:found]
        starts.append(position + max(len(gap.rstrip()), gap.rfind("\n") + 1))
        position = found + len(words)
    return [0, *starts[1:]]


def steps_of_tokens(text: str, offsets: Sequence[tuple[int, int]], spans: Sequence[StepSpan]) -> list[int]:
    """The step that each token belongs to.

    Args:
        text: the response.
        offsets: [T] the characters [start, end) of each token. Several tokens may share a character (the bytes of an
            emoji), and a token may hold none (an end-of-turn token, a SentencePiece prefix).
        spans: [S] the steps, as from `split_steps`.

    Returns:
        [T] indices of steps, non-decreasing. A step may own no token, if it shares its first token with the step before
        it.
    """
    first_words = [span.end - len(text[span.start : span.end].lstrip()) for span in spans]
    steps, current = [], 0
    for start, end in offsets:
        while current + 1 < len(spans) and start >= spans[current + 1].start:
            current += 1
        holds_own = bool(spans) and start <= first_words[current] < end
        if not holds_own and current + 1 < len(spans) and end > first_words[current + 1]:
            current += 1
        steps.append(current)
    return steps
