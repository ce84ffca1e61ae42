"""`ipr-rollout`: sample N responses to every problem, grade them, write rows as they finish, resume if interrupted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from implicit_prm.config import RolloutConfig, ServerConfig, TextConfig, from_mapping
from implicit_prm.data.problems import load_problems, step_checker
from implicit_prm.data.tokenization import build_prompt
from implicit_prm.grading import Grader, GraderPool, Verdict
from implicit_prm.rollouts.provenance import Provenance, fixed_options, run_record
from implicit_prm.rollouts.rows import RolloutRows, part, parts
from implicit_prm.rollouts.server_sampler import ServerSampler
from implicit_prm.rollouts.transformers_sampler import TransformersSampler
from implicit_prm.types import ImplicitPRMError, Problem, Samples
from implicit_prm.utils.distributed import Processes, processes, spoken_once
from implicit_prm.utils.io import JsonLines
from implicit_prm.utils.lock import locked
from implicit_prm.utils.progress import progress

Say = Callable[[str], None]


class Sampler(Protocol):
    """A source of responses. `identity` describes the model that it found."""

    identity: dict[str, Any]

    def sample(self, problems: Sequence[Problem], done: Container[str], processes: Processes) -> Iterator[Samples]:
        """Responses to this process's share of the problems whose id is not in `done`, in any order."""
        ...


@dataclass
class _Share:
    """What one process did: tokens and seconds of sampling, problems without responses, responses left out."""

    tokens: int = 0
    seconds: float = 0.0
    refused: list[Samples] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def rollout(config: RolloutConfig, say: Say = print) -> Path:
    """Write one grouped row per problem to `config.output` (JSON lines).

    Rows are written as they finish and sorted into the order of the problems at the end. The column `prompt` holds the
    prompt with its template applied, so training on the file needs no template. An interrupted run keeps every finished
    problem; the same call resumes it. `<output>.meta.json` records how the file was made, and resuming with other
    options is refused. Processes launched together (`torchrun`, `accelerate launch`) each take a share and write it to
    `<output>.rankK`; the first process gathers the parts at the end, or at the next start.

    Returns:
        The path of the file.

    Raises:
        ImplicitPRMError: an invalid source, model or server, options that differ from those the file was started with,
            a full disk, or problems without any response; the file then has all others.
    """
    config = from_mapping(RolloutConfig, asdict(config))  # a config made in Python is checked like one from YAML
    with locked(config.output), processes() as team:
        return _rollout(config, team, spoken_once(say))


def _rollout(config: RolloutConfig, team: Processes, say: Say) -> Path:
    return write_rows(config, fixed_options(config), partial(_sampler, config), team, say)


def write_rows(
    config: RolloutConfig,
    options: Mapping[str, Any],
    open_sampler: Callable[[Say], Sampler],
    team: Processes,
    say: Say,
) -> Path:
    """Sample with any `Sampler`, grade, and write the rows, as `rollout` says.

    Args:
        config: problems, grading and output.
        options: those that a resumed run must share; the sampler's identity is added.
        open_sampler: opens the sampler, which prints with the function that it gets. Not called if all is done.
        team: the processes of this run.
        say: prints a line.

    Returns:
        The path of the file.
    """
    problems = load_problems(config.problems, say)
    path = Path(config.output)
    text = config.problems.text
    options, record = dict(options), Provenance(path)
    rows = RolloutRows(path, problems, text)
    fresh = _read_rows(rows, record, options) if team.first else False
    done = team.gather(set(rows.rows))[0]
    if all(problem.id in done for problem in problems):
        say(f"{path}: all {len(problems)} problems are done already")
        say(f"{path}: {rows.summary()}")
        return path
    if done:
        say(f"{path}: resuming after {len(done)} problems")

    sampler = open_sampler(say)
    if team.first:
        options |= sampler.identity
        if not fresh:
            record.check(options)
        record.begin(options, run_record(config, problems, team.size), fresh)
    shares = team.gather(_sample(config, sampler, problems, done, text, team))
    if team.first:
        rows.read()
        rows.gather()
        say(f"{path}: {rows.summary()}")
    team.gather(None)
    _report(path, shares, len(problems), say)
    return path


def _read_rows(rows: RolloutRows, record: Provenance, options: dict[str, Any]) -> bool:
    """Read, check and gather the rows of earlier runs; say whether there were none."""
    record.check_ours()
    if not parts(rows.path) and next(JsonLines(rows.path).entries(), None) is None:
        return True
    record.check(options)
    rows.read()
    rows.gather()
    return False


def _sampler(config: RolloutConfig, say: Say) -> Sampler:
    if isinstance(config.policy, ServerConfig):
        return ServerSampler(config.policy, config.sampling, config.problems.text, say)
    return TransformersSampler(config.policy, config.sampling, config.problems.text)


def _sample(
    config: RolloutConfig,
    sampler: Sampler,
    problems: Sequence[Problem],
    done: Container[str],
    text: TextConfig,
    team: Processes,
) -> _Share:
    """Sample, grade and write this process's share of the problems."""
    path = Path(config.output)
    output = JsonLines(path if team.size == 1 else part(path, team.rank))
    checker = step_checker(config.problems.name)
    share, started = _Share(), time.perf_counter()
    expected = -(-sum(problem.id not in done for problem in problems) // team.size)
    with GraderPool(config.grading) as graders, progress("sampling", expected, team.first) as advance:
        for sampled in sampler.sample(problems, done, team):
            samples = _without_empty(sampled)
            share.left_out.update(samples.left_out)
            if samples.refused:
                share.refused.append(samples)
            else:
                output.append(_row(samples, text, graders, checker))
                share.tokens += samples.tokens
            advance(1)
    share.seconds = time.perf_counter() - started
    return share


def _without_empty(samples: Samples) -> Samples:
    """Leave out responses that training refuses: empty ones that were cut off."""
    keep = [index for index, text in enumerate(samples.texts) if text or samples.finished[index]]
    left_out = Counter(samples.left_out)
    if len(keep) < len(samples.texts):
        left_out["empty and cut off"] += len(samples.texts) - len(keep)
    refused = samples.refused
    if not keep and not refused:
        counts = ", ".join(f"{count} with {reason}" for reason, count in left_out.items())
        refused = f"no usable response ({counts})"
    return replace(
        samples,
        texts=[samples.texts[index] for index in keep],
        finished=[samples.finished[index] for index in keep],
        by_response={name: [values[index] for index in keep] for name, values in samples.by_response.items()},
        left_out=left_out,
        refused=refused,
    )


def _row(
    samples: Samples, text: TextConfig, graders: GraderPool, checker: Callable[[str, str], list[bool]] | None
) -> dict[str, Any]:
    problem = samples.problem

    def grade(grader: Grader, response: tuple[str, bool]) -> Verdict:
        return grader.grade(response[0], problem.answer, finished=response[1])

    verdicts = list(graders.map(grade, list(zip(samples.texts, samples.finished, strict=True))))
    row: dict[str, Any] = {
        "id": problem.id,
        "prompt": build_prompt(problem.text, text),
        "answer": problem.answer,
        "completions": samples.texts,
        "correctness": [verdict.correct for verdict in verdicts],
        "verdicts": [verdict.status for verdict in verdicts],
        "answer_rules": [verdict.rule or "none" for verdict in verdicts],
        "finished": samples.finished,
        **samples.by_response,
        **samples.by_problem,
    }
    if checker is not None:
        row["step_labels"] = [checker(problem.text, response) for response in samples.texts]
    return row


def _report(path: Path, shares: Sequence[_Share], problems: int, say: Say) -> None:
    """Print the speed and what was left out; raise if problems have no responses."""
    tokens, seconds = sum(share.tokens for share in shares), max(share.seconds for share in shares)
    if tokens:
        say(f"this run: {tokens:,} tokens in {seconds:,.0f} s, {tokens / seconds:,.1f} tokens/s")
    left_out: Counter[str] = Counter()
    for share in shares:
        left_out.update(share.left_out)
    for reason, count in left_out.items():
        say(f"left out: {count} responses with {reason}")
    if refused := [samples for share in shares for samples in share.refused]:
        raise ImplicitPRMError(
            f"{path}: {len(refused)} of {problems} problems have no responses; all others are in the file. The first "
            f"is {refused[0].problem.id}: {refused[0].refused}"
        )
