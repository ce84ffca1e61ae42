"""The prompt template that chats already hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from implicit_prm.types import Prompt

PLACE = "{problem}"


def common_template(prompts: Iterable[Prompt]) -> tuple[str, str | None] | None:
    """What all prompts say beside their problem.

    Only whole lines count: that problems begin or end with the same words says nothing about the template.

    Args:
        prompts: those of a training set.

    Returns:
        The user's turn with {problem} for the problem's text, and the system message or None. None if the prompts are
        not all chats of a single turn, are the same, or have nothing in common.
    """
    systems, contents = set(), set()
    for prompt in prompts:
        turn = _single_turn(prompt)
        if turn is None:
            return None
        systems.add(turn[0])
        contents.add(turn[1])
    if len(systems) != 1 or len(contents) < 2:
        return None
    before = _common_start(contents)
    before = before[: before.rfind("\n") + 1]
    rest = [content[len(before) :] for content in contents]
    after = _common_start([content[::-1] for content in rest])[::-1]
    after = after[after.find("\n") :] if "\n" in after else ""
    system = systems.pop()
    if PLACE in before + after or (not (before + after).strip() and system is None):
        return None
    return before + PLACE + after, system


def _common_start(texts: Collection[str]) -> str:
    first, last = min(texts), max(texts)
    differing = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return first[: next(differing, len(first))]


def _single_turn(prompt: Prompt) -> tuple[str | None, str] | None:
    """System message and user's text of a chat with one turn; None for other prompts."""
    if isinstance(prompt, str) or not prompt or not all(isinstance(one.get("content"), str) for one in prompt):
        return None
    texts = [one["content"] for one in prompt]
    match [one.get("role") for one in prompt]:
        case ["user"]:
            return None, texts[0]
        case ["system", "user"]:
            return texts[0], texts[1]
    return None
