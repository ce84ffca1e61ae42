"""Scores of any number of groups, in parts that several runs share and that are merged into one table.

    FOLDER/parts/<number>-<key>.parquet    the scores of consecutive groups
    FOLDER/scores.parquet                  the scores of all groups, in order

A part is named by its number and by the `ScoresKey` of its groups and the scorer. It is written once and whole, so a
run that was interrupted, or that has other shards, computes what is missing. Every pass reads the groups anew, and one
part is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from implicit_prm.scoring.scorers import ScoreGroup
from implicit_prm.scoring.store import FILE, ScoresKey, cache_key
from implicit_prm.scoring.table import (
    count_without_steps,
    is_current,
    read_table,
    to_table,
    with_labels,
    write_table,
    write_tables,
)
from implicit_prm.types import Group, ImplicitPRMError
from implicit_prm.utils.progress import progress


@dataclass(frozen=True)
class Shard:
    """The parts of one run: every `count`-th one, from `number` on.

    Neighbours in a file are often of one difficulty, hence of one length, so shards are not contiguous.
    """

    number: int = 0
    count: int = 1

    def share(self, rank: int, processes: int) -> Shard:
        """The share of one of several processes. Together they have the shard's parts, however many they are."""
        return Shard(self.number + self.count * rank, self.count * processes)


@dataclass(frozen=True)
class Part:
    """The scores of consecutive groups.

    Attributes:
        path: of their file.
        key: that the file must have.
        responses: how many there are.
        empty: how many of them have no text, hence no steps.
    """

    path: Path
    key: str
    responses: int
    empty: int

    @property
    def is_scored(self) -> bool:
        """Whether the file is there and current."""
        return is_current(self.path, self.key)

    @property
    def leaves_out(self) -> bool:
        """Whether the file, which is there, lacks the scores of a response that is too long."""
        return count_without_steps(self.path) > self.empty


class ShardedScores:
    """The scores of a source by a scorer, in parts.

    Args:
        groups: a function that reads the groups of the source from the first one on.
        scorer: what identifies the scorer.
        folder: for parts and table.
        responses_per_part: a part holds whole groups, and at least this many responses.
        too_long: with `error`, a part that leaves out a response that is too long counts as missing: to score it again
            names the response. With `lowest` it counts as scored.
    """

    def __init__(
        self,
        groups: Callable[[], Iterable[Group]],
        scorer: Mapping[str, Any],
        folder: Path,
        responses_per_part: int,
        too_long: str = "error",
    ) -> None:
        self._groups, self._scorer, self._size, self._too_long = groups, scorer, responses_per_part, too_long
        self.parts: list[Part] = []
        self.table, self._folder = folder / FILE, folder / "parts"
        whole = ScoresKey(**scorer)
        for number, some in enumerate(_split(groups(), responses_per_part)):
            for group in some:
                whole.add(group)
            key = cache_key(some, **scorer)
            empty = sum(not text for group in some for text in group.completions)
            self.parts.append(Part(self._folder / f"{number:06d}-{key}.parquet", key, sum(map(len, some)), empty))
        self.key = str(whole)  # the one that `store.score_all` looks for

    @property
    def responses(self) -> int:
        """Number of responses of the source."""
        return sum(part.responses for part in self.parts)

    def missing(self, shard: Shard) -> list[int]:
        """Numbers of the shard's parts that are not scored."""
        numbers = range(shard.number, len(self.parts), shard.count)
        return [number for number in numbers if not self._is_done(self.parts[number])]

    def _is_done(self, part: Part) -> bool:
        """Whether the part need not be scored again."""
        return part.is_scored and (self._too_long == "lowest" or not part.leaves_out)

    def score(self, numbers: Sequence[int], score: ScoreGroup, shown: bool = True) -> None:
        """Score these parts, and write each as soon as it is scored.

        Args:
            numbers: of the parts.
            score: scores one group.
            shown: show the progress.

        Raises:
            ImplicitPRMError: the source has changed since it was read first, or what `score` raises.
        """
        with progress("scoring", sum(self.parts[number].responses for number in numbers), shown) as advance:
            for part, some in self._with_groups(numbers):
                write_table(part.path, to_table(some, [score(group) for group in some]), part.key)
                advance(part.responses)

    def merge(self) -> Path:
        """Write all parts as one table, in the order of the source and with its labels as they are now.

        Returns:
            The path of the table.

        Raises:
            ImplicitPRMError: parts are missing or damaged, or the source has changed since it was read first.
        """
        missing = self.missing(Shard())
        if missing:
            listed = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
            too_long = any(self.parts[number].is_scored for number in missing)
            raise ImplicitPRMError(
                f"{self._folder}: {len(missing)} of {len(self.parts)} parts of this input by this scorer are "
                f"missing, numbers {listed}; run the shards that have not finished again, with the same options"
                + ("; or set too_long=lowest, as some leave out responses that are too long" if too_long else "")
            )
        is_current(self.table, self.key)  # refuses to replace a file of that name that is no table of scores
        parts = self._with_groups(range(len(self.parts)))
        write_tables(self.table, (with_labels(read_table(part.path), some) for part, some in parts), self.key)
        return self.table

    def _with_groups(self, numbers: Sequence[int]) -> Iterator[tuple[Part, list[Group]]]:
        """The parts of these numbers, each with its groups."""
        wanted = set(numbers)
        for number, some in enumerate(_split(self._groups(), self._size)):
            if number in wanted:
                if cache_key(some, **self._scorer) != self.parts[number].key:
                    break
                wanted.remove(number)
                yield self.parts[number], some
        if wanted:
            raise ImplicitPRMError("input: it has changed while it was read; run the command again when it is complete")


def _split(groups: Iterable[Group], responses: int) -> Iterator[list[Group]]:
    """Consecutive groups with at least this many responses together; the last ones may have fewer."""
    some: list[Group] = []
    size = 0
    for group in groups:
        some.append(group)
        size += len(group)
        if size >= responses:
            yield some
            some, size = [], 0
    if some:
        yield some
