"""The row forms: what one row of each means, and everything that can be wrong with one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from implicit_prm.data.columns import (
    ANSWER,
    COMPLETIONS,
    CORRECTNESS,
    FINISHED,
    IDENTIFIER,
    KNOWN,
    PROMPT,
    STEP_LABEL_SOURCE,
    STEP_LABELS,
    STEPS,
)
from implicit_prm.types import Group, ImplicitPRMError, Prompt
from implicit_prm.utils.errors import error_context

FORMS = (
    "grouped rows (prompt, completions, correctness), TRL unpaired rows (prompt, completion, label) or TRL paired rows "
    "(prompt, chosen, rejected; the prompt may be part of the chats)"
)
# A response with its prompt and label.
Graded = tuple[Prompt, str, bool]


def column(columns: list[str], names: tuple[str, ...]) -> str | None:
    """The first of `names` that is a column."""
    return next((name for name in names if name in columns), None)


def grouped_row(row: dict[str, Any], columns: list[str], where: str, graded: bool) -> Group:
    """A row with a prompt and all of its responses; without `graded`, labels may be missing."""

    def value(names: tuple[str, ...]) -> Any:
        name = column(columns, names)
        return row[name] if name else None

    completions = value(COMPLETIONS)
    if completions is None or completions == []:
        raise ImplicitPRMError(f"{where}: no response; remove the row or sample it again")
    if not isinstance(completions, list) or not all(isinstance(text, str) for text in completions):
        raise ImplicitPRMError(f"{where}: {column(columns, COMPLETIONS)} must be a list of texts")
    labels = value(CORRECTNESS)
    if labels is None and not graded:
        labels = [None] * len(completions)
    finished, steps = value(FINISHED), value(STEPS)
    aligned = {
        column(columns, CORRECTNESS) or "correctness": [] if labels is None else labels,
        "finished": [True] * len(completions) if finished is None else finished,
        "steps": steps,
        "step_labels": value(STEP_LABELS),
    }
    for name, values in aligned.items():
        if values is None:
            continue
        if not isinstance(values, list):
            raise ImplicitPRMError(f"{where}: {name} is {values!r}; it must be a list with an entry for each response")
        if len(values) != len(completions):
            raise ImplicitPRMError(f"{where}: {len(completions)} responses but {len(values)} entries in {name}")
    correctness, ends, *_ = aligned.values()
    if not all(isinstance(end, bool) for end in ends):
        raise ImplicitPRMError(f"{where}: finished must be a list of true (ended by itself) and false (was cut off)")
    if steps is not None and not all(isinstance(s, list) and all(isinstance(t, str) for t in s) for s in steps):
        raise ImplicitPRMError(f"{where}: steps must be a list of texts for each response")
    source = value(STEP_LABEL_SOURCE)
    if source is not None and not isinstance(source, str):
        raise ImplicitPRMError(f"{where}: step_label_source is {source!r}; it must be the name of who says so")
    answer, identifier = value(ANSWER), value(IDENTIFIER)
    prompt = checked_prompt(value(PROMPT), where)
    with error_context(where):
        return Group(
            id=fingerprint_of(prompt) if identifier is None else str(identifier),
            prompt=prompt,
            completions=completions,
            correctness=[as_label(label, where) if graded or label is not None else None for label in correctness],
            finished=ends,
            answer=None if answer is None else str(answer),
            steps=steps,
            step_labels=aligned["step_labels"],
            step_label_source=source,
            extra={name: row[name] for name in columns if name not in KNOWN},
        )


def unpaired_row(row: dict[str, Any], columns: list[str], where: str) -> list[Graded]:
    """TRL's prompt, completion, label; texts or chats."""
    prompt, text = _split_chat(row["completion"], _prompt(row, columns), where, "completion")
    return [(checked_prompt(prompt, where), _checked_response(text, where), as_label(row["label"], where))]


def paired_row(row: dict[str, Any], columns: list[str], where: str) -> list[Graded]:
    """TRL's prompt, chosen, rejected; texts or chats. A prompt that only the chats hold is what they share."""
    given, sides = _prompt(row, columns), []
    if given is None and not isinstance(row["chosen"], list):
        raise ImplicitPRMError(
            f"{where}: no prompt. Where it ends inside chosen and rejected cannot be told from plain texts; give a "
            "column prompt, or chats (lists of {role, content} messages)"
        )
    for key in ("chosen", "rejected"):
        prompt, text = _split_chat(row[key], given, where, key)
        sides.append((checked_prompt(prompt, where), _checked_response(text, where), key == "chosen"))
    if sides[0][0] != sides[1][0]:
        raise ImplicitPRMError(
            f"{where}: chosen and rejected differ before their last message, so that no prompt is shared"
        )
    return sides


def _prompt(row: dict[str, Any], columns: list[str]) -> Any:
    name = column(columns, PROMPT)
    return row[name] if name else None


def _split_chat(value: Any, prompt: Any, where: str, name: str) -> tuple[Any, Any]:
    """Prompt and response of a cell that holds the response, as a text or chat, or the whole chat with the prompt."""
    if not isinstance(value, list) or not value:
        return prompt, value
    if not _is_chat(value) or value[-1]["role"] != "assistant":
        raise ImplicitPRMError(f"{where}: {name} must end in an assistant's message, {{role, content}} with a text")
    before, text = _plain(value[:-1]), value[-1]["content"]
    if not before:
        return prompt, text
    if prompt is None:
        return before, text
    asked = _plain(prompt) if _is_chat(prompt) else prompt
    if before == asked or before == [{"role": "user", "content": asked}]:
        return prompt, text
    if before[-1] == {"role": "user", "content": asked} and before[0]["role"] == "system" and len(before) == 2:
        return before, text
    raise ImplicitPRMError(
        f"{where}: {name} has {len(before)} messages before the last, and they are not the prompt; a response is one "
        "assistant's message behind its prompt"
    )


def _plain(chat: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The messages without what else a set keeps in them."""
    return [{"role": message["role"], "content": message["content"]} for message in chat]


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
    )


def checked_prompt(prompt: Any, where: str) -> Prompt:
    """A prompt that is a text with something in it, or a chat."""
    if isinstance(prompt, str) and prompt.strip():
        return prompt
    if prompt and _is_chat(prompt):
        return _plain(prompt)
    raise ImplicitPRMError(
        f"{where}: the prompt is {_shown(prompt)}; it must be a text or a list of {{role, content}} messages"
    )


def _checked_response(completion: Any, where: str) -> str:
    if completion is None or completion in ("", []):
        raise ImplicitPRMError(f"{where}: no response; remove the row or sample it again")
    if not isinstance(completion, str):
        raise ImplicitPRMError(f"{where}: the response {_shown(completion)} must be a text")
    return completion


def as_label(label: Any, where: str) -> bool:
    """true, false, and 1 or 0 as some tools write them; not texts or scores, whose meaning would be a guess."""
    if isinstance(label, bool):
        return label
    if isinstance(label, int | float) and label in (0, 1):
        return bool(label)
    hint = ": compare the scores with a threshold first" if isinstance(label, float) else ""
    raise ImplicitPRMError(f"{where}: the label {_shown(label)} is not boolean; write true or false{hint}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def fingerprint_of(prompt: Prompt) -> str:
    """What tells prompts apart where the rows have no ids."""
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()[:12]


TRL: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any], list[str], str], list[Graded]]]] = {
    "unpaired": (("completion", "label"), unpaired_row),
    "paired": (("chosen", "rejected"), paired_row),
}
