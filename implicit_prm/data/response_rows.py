"""Rows of one response or one pair (TRL's formats) to groups: the rows of a prompt become one group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from implicit_prm.data.columns import (
    ANSWER,
    CHOSEN,
    COMPLETION,
    FINISHED,
    KNOWN,
    LABEL,
    PROMPT,
    REJECTED,
    STEP_LABEL_SOURCE,
    STEP_LABELS,
    STEPS,
)
from implicit_prm.data.readers import Rows
from implicit_prm.data.row_formats import (
    as_label,
    checked_prompt,
    checked_response,
    column,
    fingerprint_of,
    grouped_row,
    is_chat,
    plain_chat,
)
from implicit_prm.types import Group, ImplicitPRMError, Prompt

FORMATS = (
    "grouped rows (prompt, completions, correctness), TRL unpaired rows (prompt, completion, label) or TRL paired rows "
    "(prompt, chosen, rejected; the prompt may be part of the chats)"
)


@dataclass(frozen=True)
class _Response:
    """One response of a row; `columns` are the row's other columns."""

    prompt: Prompt
    text: str
    label: bool | None
    columns: dict[str, Any]
    place: str


def gather_groups(rows: Rows, graded: bool, dropped: Counter[str]) -> list[Group]:
    """One group for each prompt, in order of appearance.

    Columns that the format does not name become lists with one entry per response in `Group.extra`. In paired rows,
    `score_chosen` and `score_rejected` (or `chosen_score`, ...) together are the column `score`.

    Args:
        rows: one response or one pair each.
        graded: labels are required. The same response with the same label then counts once per prompt; without
            `graded`, only the responses that paired rows repeat do.
        dropped: counts the repeated responses.

    Raises:
        ImplicitPRMError: unknown columns, or a row without a prompt, response or label; names the row.
    """
    columns = rows.column_names
    prompt, text, label = column(columns, PROMPT), column(columns, COMPLETION), column(columns, LABEL)
    paired = CHOSEN[0] in columns and REJECTED[0] in columns
    unpaired = prompt is not None and text is not None and (label is not None or not graded)
    if not unpaired and not paired:
        raise ImplicitPRMError(f"{rows.places[0]}: has columns {', '.join(sorted(columns))}; expected {FORMATS}")
    needed = [prompt, text, label] if unpaired else [prompt, *CHOSEN, *REJECTED]
    rows.require([name for name in needed if name is not None])
    found: dict[str, list[_Response]] = {}
    seen: set[tuple[str, str, bool | None]] = set()
    for place, row in zip(rows.places, rows, strict=True):
        for response in _unpaired(row, columns, place, graded) if unpaired else _paired(row, columns, place):
            name = fingerprint_of(response.prompt)
            key = (name, response.text, response.label)
            if key in seen and (graded or not unpaired):
                dropped["responses that another row of their prompt repeats"] += 1
                continue
            seen.add(key)
            found.setdefault(name, []).append(response)
    return [_group(name, responses, graded) for name, responses in found.items()]


def _group(name: str, responses: list[_Response], graded: bool) -> Group:
    row: dict[str, Any] = {
        "id": name,
        "prompt": responses[0].prompt,
        "completions": [response.text for response in responses],
        "correctness": [response.label for response in responses],
    }
    for key in dict.fromkeys(key for response in responses for key in response.columns):
        values = [response.columns.get(key) for response in responses]
        if key in FINISHED:
            row[key] = [True if value is None else value for value in values]
        elif key in (*ANSWER, *STEP_LABEL_SOURCE):
            row[key] = next((value for value in values if value is not None), None)
        elif key not in (*STEPS, *STEP_LABELS) or any(value is not None for value in values):
            row[key] = values
    return grouped_row(row, list(row), responses[0].place, graded)


def _unpaired(row: dict[str, Any], columns: list[str], place: str, graded: bool) -> Iterator[_Response]:
    text_column, label_column = column(columns, COMPLETION) or "", column(columns, LABEL)
    prompt, text = _split_chat(row[text_column], row[column(columns, PROMPT) or ""], place, text_column)
    label = row[label_column] if label_column is not None else None
    yield _Response(
        checked_prompt(prompt, place),
        checked_response(text, place),
        as_label(label, place) if graded or label is not None else None,
        _other_columns(row),
        place,
    )


def _paired(row: dict[str, Any], columns: list[str], place: str) -> Iterator[_Response]:
    """Texts or chats. A prompt that only the chats hold is the part that they share."""
    name = column(columns, PROMPT)
    given = row[name] if name else None
    if given is None and not isinstance(row["chosen"], list):
        raise ImplicitPRMError(
            f"{place}: no prompt. Where it ends inside chosen and rejected cannot be told from plain texts; add a "
            "column prompt, or give chats (lists of {role, content} messages)"
        )
    prompts = []
    for side in ("chosen", "rejected"):
        prompt, text = _split_chat(row[side], given, place, side)
        prompts.append(checked_prompt(prompt, place))
        if prompts[0] != prompts[-1]:
            raise ImplicitPRMError(
                f"{place}: chosen and rejected differ before their last message, so they do not share a prompt"
            )
        yield _Response(
            prompts[-1], checked_response(text, place), side == "chosen", _columns_of_side(row, side), place
        )


def _other_columns(row: dict[str, Any]) -> dict[str, Any]:
    kept = (*FINISHED, *STEPS, *STEP_LABELS, *STEP_LABEL_SOURCE, *ANSWER)
    return {name: value for name, value in row.items() if name in kept or name not in KNOWN}


def _columns_of_side(row: dict[str, Any], side: str) -> dict[str, Any]:
    """The other columns of a paired row: `score_chosen` is the chosen response's `score`."""
    other = "rejected" if side == "chosen" else "chosen"
    columns = {}
    for name, value in _other_columns(row).items():
        if not name.endswith(f"_{other}") and not name.startswith(f"{other}_"):
            columns[name.removesuffix(f"_{side}").removeprefix(f"{side}_")] = value
    return columns


def _split_chat(value: Any, prompt: Any, where: str, name: str) -> tuple[Any, Any]:
    """Prompt and response of a cell that holds a response (a text or a chat), or a chat of both prompt and response."""
    if not isinstance(value, list) or not value:
        return prompt, value
    if not is_chat(value) or value[-1]["role"] != "assistant":
        raise ImplicitPRMError(f"{where}: {name} must end in an assistant message, {{role, content}} with a text")
    before, text = plain_chat(value[:-1]), value[-1]["content"]
    if not before:
        return prompt, text
    if prompt is None:
        return before, text
    asked = plain_chat(prompt) if is_chat(prompt) else prompt
    if before == asked or before == [{"role": "user", "content": asked}]:
        return prompt, text
    if before[-1] == {"role": "user", "content": asked} and before[0]["role"] == "system" and len(before) == 2:
        return before, text
    raise ImplicitPRMError(
        f"{where}: {name} has {len(before)} messages before the last one that differ from the prompt; a response is "
        "one assistant message after the prompt"
    )
