"""Candidates to `StepScores`, whoever scores; kept in parquet as they come, so that nothing is scored twice."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from implicit_prm.config import PolicyConfig
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models.loading import locate, weights_of
from implicit_prm.types import Group, ImplicitPRMError, Prompt, StepScores, StepSpan
from implicit_prm.utils.distributed import processes
from implicit_prm.utils.io import atomic_write
from implicit_prm.utils.progress import progress, tracked

ScoreGroup = Callable[[Group], list[StepScores]]
_KEY = b"implicit_prm.key"
_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("response", pa.int32()),
        ("correct", pa.bool_()),
        ("finished", pa.bool_()),
        ("kind", pa.string()),
        ("step_rewards", pa.list_(pa.float64())),
        ("prefix_values", pa.list_(pa.float64())),
        ("step_starts", pa.list_(pa.int32())),
        ("step_ends", pa.list_(pa.int32())),
        ("reference_logprob", pa.float64()),
        ("step_tokens", pa.list_(pa.int32())),
    ]
)


class ScoringModel(Protocol):
    """A model that scores responses: an `ImplicitPRM`, or a baseline's `RewardModel`."""

    encoder: Encoder
    limit_tokens: int | None

    def score(
        self,
        problem: Prompt,
        responses: Sequence[str],
        *,
        finished: Sequence[bool] | None = None,
        given_steps: Sequence[list[str]] | None = None,
        max_tokens: int | None = None,
    ) -> list[StepScores]:
        """One `StepScores` per response, in the order given."""
        ...

    def lengths(
        self,
        problem: Prompt,
        responses: Sequence[str],
        finished: Sequence[bool],
        given_steps: Sequence[list[str]] | None = None,
    ) -> list[int]:
        """Tokens of every response with the prompt."""
        ...

    def check_length(self, length: int, place: int) -> None:
        """Refuse a response over the limit."""
        ...


def model_scorer(prm: ScoringModel, max_tokens: int | None = None, too_long: str = "error") -> ScoreGroup:
    """Score with a model. With `too_long="lowest"` a response over the context has no steps: it never wins."""

    def score(group: Group) -> list[StepScores]:
        given = group.steps if prm.encoder.text.steps == "given" else None
        fits = list(range(len(group)))
        if too_long == "lowest" and prm.limit_tokens is not None:
            lengths = prm.lengths(group.prompt, group.completions, group.finished, given)
            fits = [place for place in fits if lengths[place] <= prm.limit_tokens]
        try:
            scored = prm.score(
                group.prompt,
                [group.completions[place] for place in fits],
                finished=[group.finished[place] for place in fits],
                given_steps=[given[place] for place in fits] if given is not None else None,
                max_tokens=max_tokens,
            )
        except ImplicitPRMError as error:
            raise ImplicitPRMError(f"problem {group.id}: {error}") from error
        by_place = {place: replace(one, index=place) for place, one in zip(fits, scored, strict=True)}
        nothing = StepScores("", [], [], [], step_tokens=[])
        texts = enumerate(group.completions)
        return [by_place.get(place) or replace(nothing, response=text, index=place) for place, text in texts]

    return score


def check_lengths(groups: Sequence[Group], prm: ScoringModel) -> None:
    """Refuse the first response over the context before anything is scored, not hours later."""
    for group in tracked(groups, "checking lengths"):
        given = group.steps if prm.encoder.text.steps == "given" else None
        for place, length in enumerate(prm.lengths(group.prompt, group.completions, group.finished, given)):
            try:
                prm.check_length(length, place)
            except ImplicitPRMError as error:
                raise ImplicitPRMError(f"problem {group.id}: {error}") from None


def column_scorer(column: str, kind: str) -> ScoreGroup:
    """Read step scores that are already in the candidates: a list of numbers for each response.

    Raises, when called, ImplicitPRMError naming the problem: no such column, misaligned lists, or probabilities
    outside [0, 1].
    """

    def score(group: Group) -> list[StepScores]:
        if column not in group.extra:
            raise ImplicitPRMError(f"no column {column} in the candidates; there are {', '.join(sorted(group.extra))}")
        values = group.extra[column]
        if values is None or len(values) != len(group):
            found = "nothing" if values is None else len(values)
            raise ImplicitPRMError(f"problem {group.id}: {len(group)} responses but {found} in column {column}")
        return [
            _from_numbers(numbers, kind, text, f"problem {group.id}, response {place}, column {column}")
            for place, (numbers, text) in enumerate(zip(values, group.completions, strict=True))
        ]

    return score


def _from_numbers(numbers: Any, kind: str, text: str, where: str) -> StepScores:
    steps = [] if numbers is None else list(numbers)
    if not all(isinstance(number, float | int) and math.isfinite(number) for number in steps):
        raise ImplicitPRMError(f"{where}: step scores must be a list of finite numbers, got {numbers!r}")
    if kind == "probability" and not all(0 <= number <= 1 for number in steps):
        raise ImplicitPRMError(f"{where}: a probability outside [0, 1]; for signed rewards set scores_kind=log_ratio")
    prefixes = None
    if kind == "log_ratio":
        prefixes = [math.fsum(steps[: end + 1]) for end in range(len(steps))]
    return StepScores(text, [], [float(number) for number in steps], prefixes, kind)


def score_all(groups: Sequence[Group], score: ScoreGroup, folder: Path, key: str) -> list[list[StepScores]]:
    """Scores of every group; `folder/scores.parquet` keeps them under `key`, which names scorer and candidates.

    Scores that are there under the same key, in the columns of this version, are read, not computed: after an
    interruption the run goes on at the problem that was being scored, and another aggregate costs no forward pass.
    Several processes score a share of the problems each, and all of them return all scores.
    """
    final, parts = folder / "scores.parquet", folder / f"parts-{key}"
    with processes() as state:
        if _is_current(final, key):
            return _from_table(pq.read_table(final), groups)
        # Not a contiguous share: neighbours in a file are often of one difficulty, hence of one length.
        mine = range(state.rank, len(groups), state.size)
        with progress("scoring", sum(len(groups[number]) for number in mine), state.first) as advance:
            for number in mine:
                part = _part(parts, number)
                if not _is_current(part, key):
                    _write(part, _to_table([groups[number]], [score(groups[number])]), key)
                advance(len(groups[number]))
        state.gather(None)
        if state.first:
            _write(final, pa.concat_tables(pq.read_table(_part(parts, n)) for n in range(len(groups))), key)
            shutil.rmtree(parts)
        state.gather(None)
    return _from_table(pq.read_table(final), groups)


def _is_current(path: Path, key: str) -> bool:
    """Does the file hold scores under this key, in the columns that are written now?"""
    if not path.exists():
        return False
    schema = pq.read_schema(path)
    return (schema.metadata or {}).get(_KEY) == key.encode() and schema.equals(_SCHEMA)


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.parquet"


def cache_key(groups: Sequence[Group], **scorer: Any) -> str:
    """Names a scorer's settings and what it scored: a change of either gives another key."""
    digest = hashlib.sha256(json.dumps(scorer, sort_keys=True, default=str).encode())
    for group in groups:
        what = [group.id, group.prompt, group.completions, group.finished, group.correctness, group.steps]
        digest.update(json.dumps(what).encode())
    return digest.hexdigest()[:16]


def checkpoint_identity(name: str, revision: str | None = None) -> Any:
    """What changes when a checkpoint does: its files' names, sizes and times; the commit that a hub id stands for."""
    path = Path(locate(name))
    if not path.is_dir():
        return weights_of(PolicyConfig(name, revision))["commit"]
    return sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in path.glob("*.*") if f.is_file())


def _to_table(groups: Sequence[Group], scores: Sequence[Sequence[StepScores]]) -> pa.Table:
    rows = [
        {
            "problem_id": group.id,
            "response": place,
            "correct": group.correctness[place],
            "finished": group.finished[place],
            "kind": one.kind,
            "step_rewards": one.step_rewards,
            "prefix_values": one.prefix_values,
            "step_starts": [span.start for span in one.spans],
            "step_ends": [span.end for span in one.spans],
            "reference_logprob": one.reference_logprob,
            "step_tokens": one.step_tokens,
        }
        for group, scored in zip(groups, scores, strict=True)
        for place, one in enumerate(scored)
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _from_table(table: pa.Table, groups: Sequence[Group]) -> list[list[StepScores]]:
    rows = iter(table.to_pylist())
    return [[_from_row(next(rows), place, text) for place, text in enumerate(g.completions)] for g in groups]


def _from_row(row: dict[str, Any], place: int, text: str) -> StepScores:
    return StepScores(
        response=text,
        spans=[StepSpan(*ends) for ends in zip(row["step_starts"], row["step_ends"], strict=True)],
        step_rewards=row["step_rewards"],
        prefix_values=row["prefix_values"],
        kind=row["kind"],
        index=place,
        reference_logprob=row["reference_logprob"],
        step_tokens=row["step_tokens"],
    )


def _write(path: Path, table: pa.Table, key: str) -> None:
    with atomic_write(path) as stream:
        pq.write_table(table.replace_schema_metadata({_KEY: key.encode()}), stream)
