"""The groups of a source one after another, for sources that are larger than memory."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from implicit_prm.data.columns import COMPLETIONS, IDENTIFIER, PROMPT
from implicit_prm.data.readers import PlacedRows, Rows, Source, no_rows, stream_rows
from implicit_prm.data.response_rows import gather_groups
from implicit_prm.data.row_formats import column, grouped_row, unpack_responses
from implicit_prm.types import Group, ImplicitPRMError


def stream_groups(
    source: Source, split: str = "train", revision: str | None = None, option: str | None = None
) -> Iterator[Group]:
    """The groups of a source one after another, labelled or not. Memory does not grow with the source.

    The rows of one response or one pair each must stand next to the other rows of their prompt.

    Args:
        source: as for `load_groups`.
        split: as for `load_groups`.
        revision: as for `load_groups`.
        option: as for `load_groups`.

    Raises:
        ImplicitPRMError: as `load_groups`, or rows of a prompt that are apart from its other rows; names the row.
    """
    seen: set[int] = set()
    for place, group, unique in groups_in_order(stream_rows(source, split, revision, option=option)):
        name = hash(group.id)  # an integer a group, where the ids would take several times as much memory
        if unique and name in seen:
            raise ImplicitPRMError(
                f"{place}: {group.id!r} is also the id of an earlier group; put all responses to a prompt in one row, "
                "or in rows next to each other, and give every prompt its own id"
            )
        seen.add(name)
        yield group
    if not seen:
        raise no_rows(source)


def groups_in_order(rows: PlacedRows) -> Iterator[tuple[str, Group, bool]]:
    """The groups of grouped rows, or of runs of rows of one response or one pair that share their prompt.

    Yields:
        The place of the group's first row, the group, and whether no other group may have its id.

    Raises:
        ImplicitPRMError: an invalid row, or one of another format than the first row.
    """
    rows = ((place, unpack_responses(row)) for place, row in rows)
    first = next(rows, None)
    if first is None:
        return
    columns = list(first[1])
    needed = [column(columns, PROMPT), column(columns, COMPLETIONS)]
    if None not in needed:
        for place, row in itertools.chain([first], rows):
            Rows([row], [place]).require(filter(None, needed))
            identifier = column(list(row), IDENTIFIER)
            named = identifier is not None and row[identifier] is not None
            yield place, grouped_row(row, list(row), place, graded=False), named
        return
    for _, run in itertools.groupby(itertools.chain([first], rows), lambda pair: _gathered([pair])[0].id):
        pairs = list(run)
        for group in _gathered(pairs):
            yield pairs[0][0], group, True


def _gathered(pairs: Sequence[tuple[str, dict[str, Any]]]) -> list[Group]:
    """The groups of rows of one response or one pair each."""
    return gather_groups(Rows([row for _, row in pairs], [place for place, _ in pairs]), False, Counter())
