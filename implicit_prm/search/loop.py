"""One search: continue, score, select, until every response is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from implicit_prm.search.protocols import Frontier, Generation, Guide, Prefix
from implicit_prm.types import StepScores

# Below every value of a prefix with steps. Finite, so that values can be subtracted.
_LOWEST = -1e9


def search(
    generation: Generation,
    guide: Guide,
    value: Callable[[StepScores], float],
    select: Callable[[Frontier], Sequence[int]] | None,
    n: int,
) -> tuple[list[Prefix], list[StepScores]]:
    """Search for n responses to one problem.

    Args:
        generation: continues prefixes.
        guide: scores them.
        value: of a prefix, by which prefixes of equal numbers of rounds are compared; -inf for one without steps.
        select: parents of the next round; None if `generation` generates whole responses.
        n: number of responses.

    Returns:
        [n] responses and their scores.
    """
    parents: Sequence[int] = [0] * n
    values = [0.0]
    while True:
        prefixes = generation.extend(parents)
        scores = guide.score(prefixes, parents)
        if select is None:
            return prefixes, scores
        before, values = [values[parent] for parent in parents], [max(value(one), _LOWEST) for one in scores]
        parents = select(Frontier(values, before, [not prefix.done for prefix in prefixes]))
        if all(prefix.done for prefix in prefixes):
            return [prefixes[parent] for parent in parents], [scores[parent] for parent in parents]
