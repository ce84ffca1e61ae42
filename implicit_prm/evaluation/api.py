"""Evaluation as a function call: candidates and any scorer in, metrics out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from implicit_prm.config import (
    BestOfNConfig,
    Hard2VerifyConfig,
    PRMBenchConfig,
    ProcessBenchConfig,
    RerankConfig,
    ScorerConfig,
    ShiftConfig,
    StepBenchmarkConfig,
    from_mapping,
)
from implicit_prm.data.groups import load_groups
from implicit_prm.data.readers import Source
from implicit_prm.evaluation.best_of_n.candidates import select
from implicit_prm.evaluation.best_of_n.run import evaluate_best_of_n
from implicit_prm.evaluation.process_bench.run import evaluate_subsets, load_subset
from implicit_prm.evaluation.scorer import OpenScorer, open_scorer, wrap_scorer
from implicit_prm.evaluation.shift.run import evaluate_rewrites
from implicit_prm.evaluation.step_benchmarks.run import evaluate_steps, load_benchmark
from implicit_prm.types import Group, ImplicitPRMError, Scorer
from implicit_prm.utils.distributed import spoken_once
from implicit_prm.utils.lock import locked

C = TypeVar("C", bound=ScorerConfig)
R = TypeVar("R", bound=RerankConfig)

# Given by the arguments `candidates` (or `subsets`) and `scorer`, or meant for sampling.
_ARGUMENTS = ("candidates", "subsets", "checkpoint", "scores_column", "rollout", "task")
# How a checkpoint is opened; an object is open already.
_OF_CHECKPOINTS = (
    *("revision", "reference", "beta", "dtype", "quantization", "trust_remote_code", "prompt_template", "steps"),
    *("max_length", "reference_cache"),
)


def evaluate(
    candidates: Source, scorer: Scorer | str | Path, *, output_dir: str | Path | None = None, **options: Any
) -> dict[str, Any]:
    """Best-of-N with any scorer, against majority vote, random choice and pass@N: `ipr-eval` as a function.

    Examples:
        >>> class Shortest:
        ...     def score(self, problem, responses):
        ...         return [StepScores(text, [], [-float(len(text))]) for text in responses]
        >>> metrics = evaluate("candidates.jsonl", Shortest(), aggregate="last")
        >>> metrics["accuracy"]["PRM, last of steps"]["16"]["value"]

    Args:
        candidates: a file, folder or hub id, a `datasets.Dataset`, or a list of rows as dicts; one row per problem with
            prompt, completions, and correctness or answer.
        scorer: an object with `score(problem, responses)` (see `Scorer`; `implicit_prm.scoring.scorers` lists what
            else it may have), a checkpoint's folder or hub id, or the name of a column of `candidates`.
        output_dir: folder for metrics.json, scores.parquet, accuracy.png and report.html; None writes nothing. Scores
            of a checkpoint are reused from there; those of an object are computed in every call.
        options: further options of `BestOfNConfig`, such as aggregate, over, ties, max_responses, seed.

    Returns:
        The metrics, as metrics.json of `ipr-eval` holds them.

    Raises:
        ImplicitPRMError: an unknown or unsuitable option, candidates that cannot be read, or a scorer that fails or
            returns anything but one `StepScores` with finite numbers per response; names the problem.
    """
    config, groups, opened = _reranking(BestOfNConfig, candidates, scorer, output_dir, options)
    with locked(output_dir, inside=True):
        return evaluate_best_of_n(config, groups, opened, None if output_dir is None else Path(output_dir))


def evaluate_shift(
    candidates: Source, scorer: Scorer | str | Path, *, output_dir: str | Path | None = None, **options: Any
) -> dict[str, Any]:
    """Rank stability of any scorer under rewrites that keep the meaning: `ipr-eval task=shift` as a function.

    Args:
        candidates: as for `evaluate`.
        scorer: an object with `score(problem, responses)`, or a checkpoint's folder or hub id; not a column, which has
            no scores of rewritten responses.
        output_dir: folder for metrics.json, scores.parquet and report.html; None writes nothing.
        options: further options of `ShiftConfig`, such as rewrites, aggregate, over, max_responses, seed.

    Returns:
        The metrics, as metrics.json of `ipr-eval task=shift` holds them.

    Raises:
        ImplicitPRMError: as `evaluate`; also if no rewrite applies to any response.
    """
    config, groups, opened = _reranking(ShiftConfig, candidates, scorer, output_dir, options)
    with locked(output_dir, inside=True):
        return evaluate_rewrites(config, groups, opened, None if output_dir is None else Path(output_dir))


def evaluate_process_bench(
    subsets: str | Sequence[str], scorer: Scorer | str | Path, *, output_dir: str | Path | None = None, **options: Any
) -> dict[str, Any]:
    """ProcessBench with any scorer: does it find the first wrong step? `ipr-eval task=processbench` as a function.

    Args:
        subsets: splits of `dataset` (an option; by default Qwen/ProcessBench) or local files in its columns.
        scorer: as for `evaluate`. An object must score the given steps: it gets them as `given_steps`, if its `score`
            has this parameter, and returns one number for each (`ImplicitPRM.from_pretrained(..., steps="given")`).
        output_dir: folder for metrics.json, trade_off.png, report.html and a folder per subset; None writes nothing.
        options: further options of `ProcessBenchConfig`, such as threshold, over, max_problems, seed.

    Returns:
        The metrics, as metrics.json of `ipr-eval task=processbench` holds them.

    Raises:
        ImplicitPRMError: as `evaluate`; also a solution with another number of scores than steps, or no threshold that
            can be fitted.
    """
    say = spoken_once(print)
    names = [subsets] if isinstance(subsets, str) else list(subsets)
    options = {"subsets": names, "output_dir": output_dir, **_only_options(options)}
    unchecked = _config(ProcessBenchConfig, scorer, (), options)  # where the data is depends on no scorer
    groups = {name: load_subset(unchecked, source) for name, source in unchecked.sources.items()}
    columns = set.intersection(*(_columns(some) for some in groups.values()))
    config = _config(ProcessBenchConfig, scorer, columns, options)
    opened = _opened(scorer, config, "given", skip_too_long=config.too_long == "wrong")
    with locked(output_dir, inside=True):
        return evaluate_subsets(config, groups, opened, None if output_dir is None else Path(output_dir), say)


def evaluate_prmbench(
    scorer: Scorer | str | Path, *, output_dir: str | Path | None = None, **options: Any
) -> dict[str, Any]:
    """PRMBench with any scorer: `ipr-eval task=prmbench` as a function.

    Args:
        scorer: as for `evaluate_process_bench`.
        output_dir: folder for metrics.json, scores.parquet, predictions.jsonl and report.html; None writes nothing.
        options: further options of `PRMBenchConfig`, such as dataset, threshold, over, max_problems, seed.

    Returns:
        The metrics, as metrics.json of `ipr-eval task=prmbench` holds them.

    Raises:
        ImplicitPRMError: as `evaluate_process_bench`.
    """
    return _step_benchmark(PRMBenchConfig, scorer, output_dir, options)


def evaluate_hard2verify(
    scorer: Scorer | str | Path, *, output_dir: str | Path | None = None, **options: Any
) -> dict[str, Any]:
    """Hard2Verify with any scorer: `ipr-eval task=hard2verify` as a function; otherwise as `evaluate_prmbench`."""
    return _step_benchmark(Hard2VerifyConfig, scorer, output_dir, options)


def _step_benchmark(
    cls: type[StepBenchmarkConfig],
    scorer: Scorer | str | Path,
    output_dir: str | Path | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    options = {"output_dir": output_dir, **_only_options(options)}
    groups = load_benchmark(_config(cls, scorer, (), options), spoken_once(print))
    config = _config(cls, scorer, _columns(groups), options)
    opened = _opened(scorer, config, "given", skip_too_long=config.too_long == "wrong")
    with locked(output_dir, inside=True):
        return evaluate_steps(config, groups, opened, None if output_dir is None else Path(output_dir))


def _reranking(
    cls: type[R],
    candidates: Source,
    scorer: Scorer | str | Path,
    output_dir: str | Path | None,
    options: Mapping[str, Any],
) -> tuple[R, list[Group], OpenScorer]:
    """Checked options, the candidates, and the scorer, which can score them."""
    groups = load_groups(candidates, graded=False)
    options = {"candidates": _described(candidates), "output_dir": output_dir, **_only_options(options)}
    config = _config(cls, scorer, _columns(groups), options)
    groups = select(groups, config, spoken_once(print))
    opened = _opened(scorer, config, config.steps, skip_too_long=config.too_long == "lowest")
    opened.check(groups, lengths=config.too_long == "error")
    return config, groups, opened


def _only_options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in _ARGUMENTS:
        if key in options:
            raise ImplicitPRMError(f"{key}: give candidates (or subsets) and scorer as arguments")
    return options


def _described(candidates: Source) -> str:
    if isinstance(candidates, str | Path):
        return str(candidates)
    return f"{type(candidates).__name__} of {len(candidates)} rows"


def _columns(groups: Sequence[Group]) -> set[str]:
    """The extra columns that hold a list for each group: possible score columns."""
    return {name for group in groups for name, values in group.extra.items() if isinstance(values, list)}


def _config(cls: type[C], scorer: Scorer | str | Path, columns: Collection[str], options: Mapping[str, Any]) -> C:
    """The options as a checked config that names the scorer, if it has a name."""
    folder = options["output_dir"]
    values = {**options, "output_dir": "." if folder is None else str(folder)}
    if isinstance(scorer, str) and scorer in columns:
        if Path(scorer).exists():
            raise ImplicitPRMError(f"scorer={scorer} is a column and a path; give Path({scorer!r}) for the checkpoint")
        values["scores_column"] = scorer
    elif isinstance(scorer, str | Path):
        values["checkpoint"] = str(scorer)
    else:
        for key in (*_OF_CHECKPOINTS, "scores_kind"):
            if key in options:
                raise ImplicitPRMError(f"{key}: not for a scorer that is an object; set it where the object is made")
        values["checkpoint"] = type(scorer).__name__  # to pass the check that there is a scorer; taken out below
    config = from_mapping(cls, values)
    checkpoint = config.checkpoint if isinstance(scorer, str | Path) else None
    return replace(config, checkpoint=checkpoint, output_dir=None if folder is None else str(folder))


def _opened(scorer: Scorer | str | Path, config: ScorerConfig, steps: Any, skip_too_long: bool) -> OpenScorer:
    if isinstance(scorer, str | Path):
        return open_scorer(config, steps, skip_too_long)
    return wrap_scorer(scorer, config, skip_too_long)
