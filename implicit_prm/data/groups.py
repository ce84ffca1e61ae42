"""Load the groups of a source (one prompt, its responses, their labels), and select among their responses.

An invalid row stops the run with an error that names the row and the way out.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from implicit_prm.data.columns import COMPLETIONS, CORRECTNESS, IDENTIFIER, PROMPT
from implicit_prm.data.readers import Rows, Source, read_rows
from implicit_prm.data.response_rows import gather_groups
from implicit_prm.data.row_formats import column, grouped_row, unpack_responses
from implicit_prm.types import Group, ImplicitPRMError


def load_groups(
    source: Source,
    split: str = "train",
    revision: str | None = None,
    graded: bool = True,
    limit: int | None = None,
    option: str | None = None,
    dropped: Counter[str] | None = None,
) -> list[Group]:
    """The validated groups of a source, in order of appearance.

    `implicit_prm.data.columns` describes the formats of rows.

    Args:
        source: a local file or folder, a hub dataset id, a `datasets.Dataset`, or a list of rows as dicts.
        split: the split of a folder or hub dataset.
        revision: a commit, branch or tag of a hub dataset.
        graded: require labels (training). Otherwise they are None where they are missing.
        limit: read only the first prompts. Of a hub dataset of grouped rows no more is fetched; other formats are read
            to the end, as the rows of a prompt may be anywhere.
        option: the option that takes a local copy, for messages.
        dropped: counts the responses that are left out, by reason.

    Raises:
        ImplicitPRMError: a source that cannot be read, unknown columns, a row without a response, labels that are not
            boolean, or a repeated id; names the row.
    """
    rows = read_rows(source, split, revision, limit=limit, option=option)
    rows = replace(rows, raw=[unpack_responses(row) for row in rows.raw])
    if _is_grouped(rows.column_names, graded):
        return _unique(list(_grouped(rows, graded)), rows)
    if limit is not None:
        rows = read_rows(source, split, revision, option=option)
    return gather_groups(rows, graded, Counter() if dropped is None else dropped)[:limit]


def _is_grouped(columns: list[str], graded: bool) -> bool:
    needed = [PROMPT, COMPLETIONS] + ([CORRECTNESS] if graded else [])
    return all(column(columns, names) for names in needed)


def _grouped(rows: Rows, graded: bool) -> Iterable[Group]:
    columns = rows.column_names
    required = (PROMPT, COMPLETIONS, CORRECTNESS)
    rows.require(filter(None, (column(columns, names) for names in required)))
    for place, row in zip(rows.places, rows, strict=True):
        yield grouped_row(row, columns, place, graded)


def _unique(groups: list[Group], rows: Rows) -> list[Group]:
    """Refuse an id that two rows share. Rows without an id may share a prompt."""
    name = column(rows.column_names, IDENTIFIER)
    first: dict[str, str] = {}
    for group, place, row in zip(groups, rows.places, rows, strict=True):
        if name and row[name] is not None and first.setdefault(group.id, place) != place:
            raise ImplicitPRMError(
                f"{place}: {name} {group.id!r} is also the {name} of {first[group.id]}; put all responses to a prompt "
                f"in one row, or give every row its own {name}"
            )
    return groups


def is_mixed(group: Group) -> bool:
    """Whether the group has both a correct and an incorrect response."""
    return len(set(group.correctness)) > 1


def labelled_responses(group: Group) -> list[int]:
    """Indices of the responses with at least one step label."""
    labels = group.step_labels or []
    return [place for place, some in enumerate(labels) if some and any(label is not None for label in some)]


def take_responses(groups: Sequence[Group], limit: int, seed: int = 0) -> list[Group]:
    """`limit` random responses of every group. (Not the first ones: some files list the correct ones first.)"""
    taken = []
    for group in groups:
        places = range(len(group))
        # Seeded by the id and not by the position, so that a subset of groups draws the same responses.
        rng = random.Random(f"{seed} {group.id}")
        taken.append(subset(group, sorted(rng.sample(places, limit)) if limit < len(group) else places))
    return taken


def subset(group: Group, keep: Iterable[int]) -> Group:
    """The group with only the responses at the given indices.

    Extra columns that are lists with one entry per response, such as scores, are taken along.
    """
    places = list(keep)
    aligned = ("completions", "correctness", "finished", "steps", "step_labels")
    lists: dict[str, Any] = {name: getattr(group, name) for name in aligned}
    taken: dict[str, Any] = {name: [v[place] for place in places] for name, v in lists.items() if v is not None}
    extra = {
        name: [values[place] for place in places] if isinstance(values, list) and len(values) == len(group) else values
        for name, values in group.extra.items()
    }
    return replace(group, extra=extra, **taken)


def balance(groups: Sequence[Group], how: str, seed: int, dropped: Counter[str]) -> list[Group]:
    """Down-sample the more frequent class, as the paper does.

    Args:
        groups: graded groups.
        how: none; dataset: over all groups together; prompt: within every group.
        seed: which responses are left out.
        dropped: counts the responses that are left out.

    Returns:
        The balanced groups, without groups that have no response left.
    """
    if how == "none":
        return list(groups)
    rng = random.Random(seed)
    if how == "prompt":
        kept = [_balanced_places([(place, bool(c)) for place, c in enumerate(g.correctness)], rng) for g in groups]
    else:
        everything = [((n, place), bool(c)) for n, g in enumerate(groups) for place, c in enumerate(g.correctness)]
        kept = [[] for _ in groups]
        for n, place in _balanced_places(everything, rng):
            kept[n].append(place)
    balanced = [subset(group, sorted(places)) for group, places in zip(groups, kept, strict=True) if places]
    left_out = sum(map(len, groups)) - sum(map(len, balanced))
    dropped[f"responses to balance the labels (loss.balance={how})"] += left_out
    return balanced


def _balanced_places(entries: list[tuple[Any, bool]], rng: random.Random) -> list[Any]:
    sides = [[place for place, correct in entries if correct is side] for side in (True, False)]
    size = min(map(len, sides))
    return [place for side in sides for place in rng.sample(side, size)]


def fingerprint(groups: Sequence[Group], step_labels: bool = False) -> str:
    """Content hash of the training data: prompts, responses, labels, `finished`; with `step_labels`, these as well."""
    digest = hashlib.sha256()
    for group in groups:
        read: list[Any] = [group.prompt, group.completions, group.correctness, group.finished]
        if step_labels:
            read.append(group.step_labels)
        digest.update(json.dumps(read).encode())
    return digest.hexdigest()[:16]
