r"""Response text to the character spans of its steps.

Whatever the rule, the spans cover the response exactly, in order: separators belong to the step they end, and white
space before the first step belongs to it. Every token of a response therefore belongs to one step.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from implicit_prm.types import ImplicitPRMError, StepSpan

# What ends a step: the match's end is where the next step starts.
_SEPARATORS = {
    "blank_line": re.compile(r"\n[^\S\n]*\n\s*"),
    "newline": re.compile(r"\n\s*"),
}
# What starts a step: "Step 3:" at the start of a line, also as "## Step 3:" or "**Step 3:**".
_MARKER = re.compile(r"^[^\S\n]*[#*>]*[^\S\n]*Step[^\S\n]+\d+[^\S\n]*[:.]", re.MULTILINE | re.IGNORECASE)

RULES = ("blank_line", "newline", "step_marker", "given")


def split_steps(text: str, rule: str = "blank_line", given: Sequence[str] | None = None) -> list[StepSpan]:
    """Character spans of the steps of `text`; they cover it exactly, in order. No text, no steps.

    Args:
        rule: `blank_line`; `newline`; `step_marker`, a line that starts with "Step k:"; or `given`, the list `given`.
        given: with rule `given`, the step texts in order, as they stand in `text` (white space around them may differ).

    Raises:
        ImplicitPRMError: unknown rule, or a given step that the text does not contain after the previous one.
    """
    if rule not in RULES:
        raise ImplicitPRMError(f"unknown step rule {rule!r}; choose one of {', '.join(RULES)}")
    if not text:
        return []
    if rule == "given":
        starts = _given_starts(text, given)
    elif rule == "step_marker":
        starts = [match.start() for match in _MARKER.finditer(text)]
    else:
        starts = [match.end() for match in _SEPARATORS[rule].finditer(text)]
    return _cover(text, starts)


def _cover(text: str, starts: Sequence[int]) -> list[StepSpan]:
    """Spans between the given starts. What stands before the first start is a step of its own if it says anything."""
    inner = [start for start in starts if 0 < start < len(text)]
    if inner and not text[: inner[0]].strip():
        inner = inner[1:]
    bounds = [0, *inner, len(text)]
    return [StepSpan(start, end) for start, end in pairwise(bounds)]


def _given_starts(text: str, given: Sequence[str] | None) -> list[int]:
    if not given:
        raise ImplicitPRMError("step rule 'given' needs the list of the response's steps; is the column `steps` there?")
    starts, position = [], 0
    for number, step in enumerate(given):
        wanted = step.strip()
        if not wanted:
            raise ImplicitPRMError(f"given step {number} is empty; leave it out or use another step rule")
        found = text.find(wanted, position)
        if found < 0:
            raise ImplicitPRMError(
                f"given step {number} ({wanted[:60]!r}) is not in the response after the step before it; "
                "the steps must be parts of the text, in order. Use another step rule to split the text itself"
            )
        starts.append(found)
        position = found + len(wanted)
    return starts[1:]


def steps_of_tokens(token_starts: Sequence[int], spans: Sequence[StepSpan]) -> list[int]:
    """The step each token belongs to: the one that holds the token's first character. Non-decreasing.

    A token that reaches over a boundary (".\\n\\n" in many vocabularies) stays with the step it starts in. Several
    tokens may share one character (bytes of an emoji) and a token may hold none (a sentencepiece prefix): both follow
    from their start offset.
    """
    steps, current = [], 0
    for start in token_starts:
        while current + 1 < len(spans) and start >= spans[current + 1].start:
            current += 1
        steps.append(current)
    return steps
