"""`ipr-search`: search for responses with a guide, grade them, write rows as they finish, resume if interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from implicit_prm.config import SearchConfig, from_mapping
from implicit_prm.rollouts.provenance import fixed_options
from implicit_prm.rollouts.run import write_rows
from implicit_prm.search.searcher import Searcher
from implicit_prm.types import ImplicitPRMError, Scorer
from implicit_prm.utils.distributed import processes, spoken_once
from implicit_prm.utils.io import JsonLines
from implicit_prm.utils.lock import locked

Say = Callable[[str], None]


def search_responses(config: SearchConfig, scorer: Scorer | None = None, say: Say = print) -> Path:
    """Write one row of candidates per problem to `config.output` (JSON lines), as `ipr-eval` and training read them.

    Rows are those of `rollouts.run.rollout`, and resuming works alike. More columns: `guide_scores` (the guide's score
    of each step of each response) and `guide_kind` (log_ratio or probability), `generator_tokens` and `guide_tokens`
    (tokens that the models computed for the problem, the prompt included; null for a scorer without `lengths`).

    Args:
        config: the options.
        scorer: guides in the place of `config.guide`: any object with `score(problem, responses)`.
        say: prints a line.

    Returns:
        The path of the file.

    Raises:
        ImplicitPRMError: as for `rollout`, or a guide that cannot be opened or fails.
    """
    config = from_mapping(SearchConfig, asdict(config))  # a config made in Python is checked like one from YAML
    if (config.guide is None) == (scorer is None):
        raise ImplicitPRMError("expected one guide: set the option guide, or give an object as scorer")
    said = spoken_once(say)
    with locked(config.output), processes() as team:
        path = write_rows(config, search_options(config), partial(Searcher, config, scorer), team, said)
    if (row := next(JsonLines(path).entries(), None)) is not None:
        kind = row[2]["guide_kind"]
        said(f"to evaluate: ipr-eval candidates={path} scores_column=guide_scores scores_kind={kind} output_dir=FOLDER")
    return path


def search_options(config: SearchConfig) -> dict[str, Any]:
    """The options that a resumed run must share. A tokenizer is identified by its contents, by the generator."""
    options = fixed_options(config)
    del options["sampling"]["batch_size"]
    names = ("algorithm", "guide", "aggregate", "over", "steps", "chunk_tokens")
    given = asdict(config)
    (given["guide"] or {}).pop("max_tokens_per_batch", None)  # only bounds memory
    return options | {name: given[name] for name in names}
