"""Sample N responses to every problem, grade them, write them as they come, and go on after an interruption."""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from implicit_prm.config import RolloutConfig, ServerConfig, TextConfig, from_mapping
from implicit_prm.data.problems import load_problems, step_checker
from implicit_prm.data.tokenization import build_prompt
from implicit_prm.grading.grader import Grader
from implicit_prm.rollouts.provenance import Provenance, run_of, settings_of
from implicit_prm.rollouts.server_sampler import ServerSampler
from implicit_prm.rollouts.transformers_sampler import TransformersSampler
from implicit_prm.types import ImplicitPRMError, Problem, Samples
from implicit_prm.utils.distributed import Processes, processes, spoken_once
from implicit_prm.utils.io import JsonLines
from implicit_prm.utils.progress import progress

Say = Callable[[str], None]


class Sampler(Protocol):
    """Where responses come from. `identity` says which model it turned out to be."""

    identity: dict[str, Any]

    def sample(self, problems: Sequence[Problem], done: Container[str], processes: Processes) -> Iterator[Samples]:
        """The responses to this process' share of the problems that are not `done`, in any order."""
        ...


def rollout(config: RolloutConfig, say: Say = print) -> Path:
    """Write one grouped row per problem to `config.output` (JSON lines).

    Rows are written as they come and put into the order of the problems at the end. The column `prompt` holds the
    prompt as it was sampled from, its template applied, so training on the file needs none. An interrupted run loses
    no finished problem: the same call goes on with the others. `<output>.meta.json` records how the file was made;
    other settings are then refused. Processes that were launched together (`torchrun`, `accelerate launch`) each take
    a share and write it to `<output>.rankK`; the first gathers the parts in the end, or at the next start.

    Returns:
        The path of the file.

    Raises:
        ImplicitPRMError: a bad source, model or server, other settings than the file was started with, a full disk, or
            problems that no response could be sampled for; all others are then in the file.
    """
    config = from_mapping(RolloutConfig, asdict(config))  # a config made in Python is checked like one from YAML
    with processes() as team:
        return _rollout(config, team, spoken_once(say))


def _rollout(config: RolloutConfig, team: Processes, say: Say) -> Path:
    problems = load_problems(config.problems, say)
    path = Path(config.output)
    text = config.problems.text
    settings, record = settings_of(config), Provenance(path)
    if team.first:
        output = JsonLines(path)
        if fresh := not _parts(path) and not output.rows():
            rows = []
        else:
            record.check(settings)
            rows = _settle(output, problems)
            _check_source(rows, problems, text, path)
        team.gather(None)
    else:
        team.gather(None)
        rows, fresh = JsonLines(path).rows(), False
    done = {row["id"] for row in rows}
    if all(problem.id in done for problem in problems):
        say(f"{path}: all {len(problems)} problems are there already")
        say(f"{path}: {_summary(rows, problems)}")
        return path
    if done:
        say(f"{path}: going on behind {len(done)} problems")

    sampler: Sampler = (
        ServerSampler(config.policy, config.sampling, text, say)
        if isinstance(config.policy, ServerConfig)
        else TransformersSampler(config.policy, config.sampling, text)
    )
    if team.first:
        settings |= sampler.identity
        if not fresh:
            record.check(settings)
        record.begin(settings, run_of(config, problems, team.size), fresh)

    part = JsonLines(path if team.size == 1 else _part(path, team.rank))
    refused: list[Samples] = []
    tokens, started = 0, time.perf_counter()
    checker = step_checker(config.problems.name)
    share = -(-sum(problem.id not in done for problem in problems) // team.size)
    with Grader() as grader, progress("sampling", share, team.first) as advance:
        for samples in sampler.sample(problems, done, team):
            if samples.refused:
                refused.append(samples)
            else:
                part.append(_row(samples, text, grader, checker))
                tokens += samples.tokens
            advance(1)
    seconds = time.perf_counter() - started

    shares = team.gather((tokens, seconds, refused))
    if team.first:
        say(f"{path}: {_summary(_settle(JsonLines(path), problems), problems)}")
    team.gather(None)
    total, longest = sum(share[0] for share in shares), max(share[1] for share in shares)
    if total:
        say(f"this run: {total:,} tokens in {longest:,.0f} s, {total / longest:,.1f} tokens/s")
    if without := [samples for share in shares for samples in share[2]]:
        raise ImplicitPRMError(
            f"{path}: {len(without)} of {len(problems)} problems have no responses; all others are there. The first is "
            f"{without[0].problem.id}: {without[0].refused}"
        )
    return path


def _row(
    samples: Samples, text: TextConfig, grader: Grader, checker: Callable[[str, str], list[bool]] | None
) -> dict[str, Any]:
    problem = samples.problem
    verdicts = [grader.grade(response, problem.answer) for response in samples.texts]
    row: dict[str, Any] = {
        "id": problem.id,
        "prompt": build_prompt(problem.text, text),
        "answer": problem.answer,
        "completions": samples.texts,
        "correctness": [verdict.correct for verdict in verdicts],
        "verdicts": [verdict.status for verdict in verdicts],
        "finished": samples.finished,
    }
    if checker is not None:
        row["step_labels"] = [checker(problem.text, response) for response in samples.texts]
    return row


def _part(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.name}.rank{rank}")


def _parts(path: Path) -> list[Path]:
    """What the processes of a run wrote that was not gathered yet."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.rank*"))


def _settle(output: JsonLines, problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """The rows in one file, each problem once, in the order of the problems; those of a longer run stay behind them."""
    parts = _parts(output.path)
    written = output.rows()
    rows: dict[str, dict[str, Any]] = {}
    for row in [*written, *(row for part in parts for row in JsonLines(part).rows())]:
        rows.setdefault(row["id"], row)
    place = {problem.id: number for number, problem in enumerate(problems)}
    settled = sorted(rows.values(), key=lambda row: place.get(row["id"], len(place)))
    if settled != written:
        output.replace(settled)
    for part in parts:
        part.unlink()
    return settled


def _check_source(rows: Sequence[dict[str, Any]], problems: Sequence[Problem], text: TextConfig, path: Path) -> None:
    """Refuse to mix the problems of a source with what it held before."""
    now = {problem.id: problem for problem in problems}
    for row in rows:
        problem = now.get(row["id"])
        if problem is None:
            if len(rows) <= len(problems):  # else the file is of a longer run
                raise ImplicitPRMError(
                    f"{path} holds problem {row['id']}, which the source no longer has: it has changed; give another "
                    "output"
                )
        elif row["prompt"] != build_prompt(problem.text, text) or row["answer"] != problem.answer:
            raise ImplicitPRMError(
                f"{path}: problem {row['id']} now has another text or answer: the source has changed; give another "
                "output"
            )


def _summary(rows: Sequence[dict[str, Any]], problems: Sequence[Problem]) -> str:
    wanted = {problem.id for problem in problems}
    rows = [row for row in rows if row["id"] in wanted]
    correct = [label for row in rows for label in row["correctness"]]
    cut_off = sum(not finished for row in rows for finished in row["finished"])
    if not correct:
        return "no responses"
    return (
        f"{len(correct)} responses to {len(rows)} problems: {sum(correct) / len(correct):.1%} correct, "
        f"{cut_off / len(correct):.1%} cut off"
    )
