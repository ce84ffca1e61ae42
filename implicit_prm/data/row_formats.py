"""Grouped rows to groups: one prompt with all of its responses in a row. Every column is checked."""

from __future__ import annotations

import hashlib
import json
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

# The key of a response's text where responses are objects.
_TEXT_KEYS = ("text", "content")


def column(columns: list[str], names: tuple[str, ...]) -> str | None:
    """The first of `names` that is among the columns; None if there is none."""
    return next((name for name in names if name in columns), None)


def unpack_responses(row: dict[str, Any]) -> dict[str, Any]:
    """A grouped row whose responses are objects, as `{"text": "2", "score": 0.9}`, with a list for each of their keys.

    Chats with one assistant message each are read as well. Other rows are returned as they are.
    """
    name = next((name for name in COMPLETIONS if name in row), None)
    entries = row[name] if name else None
    if name is None or not isinstance(entries, list) or not entries:
        return row
    entries = [entry[0] if isinstance(entry, list) and len(entry) == 1 else entry for entry in entries]
    if not all(isinstance(entry, dict) for entry in entries):
        return row
    texts = [next((entry[key] for key in _TEXT_KEYS if key in entry), None) for entry in entries]
    ignored = (*_TEXT_KEYS, "role", *PROMPT, *ANSWER, *IDENTIFIER)
    keys = dict.fromkeys(key for entry in entries for key in entry if key not in ignored)
    return {**{key: [entry.get(key) for entry in entries] for key in keys}, **row, name: texts}


def grouped_row(row: dict[str, Any], columns: list[str], where: str, graded: bool) -> Group:
    """The group of a grouped row.

    Args:
        row: a prompt with all of its responses.
        columns: the names of the row's columns.
        where: names the row in messages.
        graded: require labels; otherwise they are None where they are missing.

    Raises:
        ImplicitPRMError: an invalid or missing value; names the row and the column.
    """

    def value(names: tuple[str, ...]) -> Any:
        name = column(columns, names)
        return row[name] if name else None

    completions = value(COMPLETIONS)
    if completions is None or completions == []:
        raise ImplicitPRMError(f"{where}: no response; remove the row or sample it again")
    if not isinstance(completions, list) or not all(isinstance(text, str) for text in completions):
        raise ImplicitPRMError(
            f"{where}: {column(columns, COMPLETIONS)} must be a list of texts, got {shown(completions)}"
        )
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
    _check_aligned(aligned, len(completions), where)
    correctness, ends, *_ = aligned.values()
    if not all(isinstance(end, bool) for end in ends):
        raise ImplicitPRMError(f"{where}: finished must be a list of true (ended by itself) and false (was cut off)")
    if steps is not None and not all(isinstance(s, list) and all(isinstance(t, str) for t in s) for s in steps):
        raise ImplicitPRMError(f"{where}: steps must be a list of texts for each response")
    source = value(STEP_LABEL_SOURCE)
    if source is not None and not isinstance(source, str):
        raise ImplicitPRMError(
            f"{where}: step_label_source is {shown(source)}; it must be a text that says who made the labels"
        )
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


def _check_aligned(columns: dict[str, Any], responses: int, where: str) -> None:
    """Check that each column is None or a list with one entry per response."""
    for name, values in columns.items():
        if values is None:
            continue
        if not isinstance(values, list):
            raise ImplicitPRMError(f"{where}: {name} is {shown(values)}; it must be a list with one entry per response")
        if len(values) != responses:
            raise ImplicitPRMError(f"{where}: {responses} responses but {len(values)} entries in {name}")


def plain_chat(chat: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The messages with role and content alone."""
    return [{"role": message["role"], "content": message["content"]} for message in chat]


def is_chat(value: Any) -> bool:
    """Whether the value is a list of {role, content} messages."""
    return isinstance(value, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
    )


def checked_prompt(prompt: Any, where: str) -> Prompt:
    """The prompt, if it is a text that is not blank, or a chat; raises ImplicitPRMError if not."""
    if isinstance(prompt, str) and prompt.strip():
        return prompt
    if prompt and is_chat(prompt):
        return plain_chat(prompt)
    raise ImplicitPRMError(
        f"{where}: the prompt is {shown(prompt)}; it must be a text or a list of {{role, content}} messages"
    )


def checked_response(completion: Any, where: str) -> str:
    """The response, if it is a text that is not empty; raises ImplicitPRMError if not."""
    if completion is None or completion in ("", []):
        raise ImplicitPRMError(f"{where}: no response; remove the row or sample it again")
    if not isinstance(completion, str):
        raise ImplicitPRMError(f"{where}: the response {shown(completion)} must be a text")
    return completion


def as_label(label: Any, where: str) -> bool:
    """A label as a bool: true or false, also 1 or 0. Texts and scores are refused, as their meaning is not certain."""
    if isinstance(label, bool):
        return label
    if isinstance(label, int | float) and label in (0, 1):
        return bool(label)
    hint = ": compare the scores with a threshold first" if isinstance(label, float) else ""
    raise ImplicitPRMError(f"{where}: the label {shown(label)} is not boolean; write true or false{hint}")


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def fingerprint_of(prompt: Prompt) -> str:
    """An id of a prompt, for rows without ids."""
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()[:12]
