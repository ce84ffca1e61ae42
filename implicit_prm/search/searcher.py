"""One search for each problem: opens the generator and the guide, and counts their tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import numpy as np

from implicit_prm.baselines.reward_model import RewardModel
from implicit_prm.config import CheckpointGuide, ExactGuide, SearchConfig, ServerConfig
from implicit_prm.data.problems import load_problems
from implicit_prm.data.tokenization import build_prompt
from implicit_prm.evaluation.scorer import kind_of, open_checkpoint
from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.models.source import ModelSource
from implicit_prm.rewards.implicit_reward import aggregate
from implicit_prm.rollouts.workers import in_threads
from implicit_prm.scoring.exact_steps import ExactSteps
from implicit_prm.scoring.scorers import group_scorer
from implicit_prm.search.beam import beam
from implicit_prm.search.dvts import dvts
from implicit_prm.search.loop import search
from implicit_prm.search.particles import particles
from implicit_prm.search.protocols import Frontier, Generator, Guide, Prefix, RefusedError, Select
from implicit_prm.search.rebase import rebase
from implicit_prm.search.rescoring import RescoringGuide
from implicit_prm.search.server_generation import ServerGenerator
from implicit_prm.search.session_guide import SessionGuide
from implicit_prm.search.step_ends import RULES
from implicit_prm.search.transformers_generator import TransformersGenerator
from implicit_prm.types import ImplicitPRMError, Problem, Samples, Scorer, StepScores
from implicit_prm.utils.distributed import Processes

# By the name of the algorithm. The others compare no prefixes.
ALGORITHMS: dict[str, Select] = {"beam": beam, "dvts": dvts, "particles": particles, "rebase": rebase}


class Searcher:
    """Searches for responses to problems, as a `Sampler` of `rollouts.run`.

    Args:
        config: the options.
        scorer: guides in the place of `config.guide`.
        say: prints a warning.

    Raises:
        ImplicitPRMError: the generator or the guide cannot be opened, or they do not fit together.
    """

    def __init__(self, config: SearchConfig, scorer: Scorer | None, say: Callable[[str], None]) -> None:
        self._config, self._lock = config, threading.Lock()
        self._scorer, known = (scorer, {"object": type(scorer).__name__}) if scorer is not None else _opened(config)
        self._max_tokens = config.guide.max_tokens_per_batch if isinstance(config.guide, CheckpointGuide) else None
        self._score = group_scorer(self._scorer, self._max_tokens)
        rule = _rule(config, self._scorer)
        prm = self._scorer if isinstance(self._scorer, ImplicitPRM) else None
        if isinstance(config.policy, ServerConfig):
            self._generator: Generator = ServerGenerator(config, rule, say)
        else:
            self._generator = TransformersGenerator(config, rule, prm)
        self.identity = {**self._generator.identity, "guide_model": known}

    def sample(self, problems: Sequence[Problem], done: Container[str], team: Processes) -> Iterator[Samples]:
        """Responses to this process's share of the problems whose id is not in `done`."""
        if team.size > 1 and isinstance(self._config.policy, ServerConfig):
            raise ImplicitPRMError("policy=server runs in one process; launch one and raise policy.concurrency")
        places = [place for place, problem in enumerate(problems) if problem.id not in done]
        share = [(place, problems[place]) for place in places if place % team.size == team.rank]
        if self._generator.workers == 1:
            yield from map(self._samples, share)
        else:
            yield from in_threads(share, self._samples, self._generator.workers)

    def _samples(self, item: tuple[int, Problem]) -> Samples:
        place, problem = item
        config = self._config
        guide = _Locked(self._guide(problem), self._lock)
        try:
            generation = self._generator.open(problem, place)
            prefixes, scores = search(generation, guide, self._value, self._select(place), config.sampling.n)
        except RefusedError as reason:
            return Samples(problem, [], [], refused=str(reason))
        return Samples(
            problem,
            [prefix.text for prefix in prefixes],
            [prefix.finished for prefix in prefixes],
            generation.tokens,
            by_response={"guide_scores": [one.step_rewards for one in scores]},
            by_problem={
                "guide_kind": kind_of([scores]),
                "generator_tokens": generation.tokens,
                "guide_tokens": None if guide.tokens is None else guide.tokens + generation.guide_tokens,
            },
        )

    def _value(self, scores: StepScores) -> float:
        return aggregate(scores, self._config.aggregate, self._config.over)

    def _select(self, place: int) -> Callable[[Frontier], Sequence[int]] | None:
        """The algorithm, with random numbers of its own for each problem."""
        select, seed = ALGORITHMS.get(self._config.algorithm.name), self._config.sampling.seed
        if select is None:
            return None
        rng = np.random.default_rng(None if seed is None else (seed, place, 1))
        return lambda frontier: select(frontier, self._config.algorithm, rng)

    def _guide(self, problem: Problem) -> Guide:
        prompt = build_prompt(problem.text, self._config.problems.text)
        if isinstance(self._scorer, ImplicitPRM):
            return SessionGuide(self._scorer, problem, prompt, self._max_tokens, self._generator.is_reference)
        return RescoringGuide(self._score, self._scorer, problem, prompt)


class _Locked:
    """A guide that several threads may call: the models behind it run one at a time."""

    def __init__(self, guide: Guide, lock: threading.Lock) -> None:
        self._guide, self._lock = guide, lock

    @property
    def tokens(self) -> int | None:
        return self._guide.tokens

    def score(self, prefixes: Sequence[Prefix], parents: Sequence[int]) -> list[StepScores]:
        with self._lock:
            return self._guide.score(prefixes, parents)


def _opened(config: SearchConfig) -> tuple[Scorer, dict[str, Any]]:
    """The scorer that `config.guide` names, and what identifies it."""
    if isinstance(config.guide, ExactGuide):
        problems = load_problems(config.problems, lambda _: None)
        return ExactSteps({_message(problem, config): problem.text for problem in problems}), {"kind": "exact"}
    assert config.guide is not None  # search_responses
    opened = open_checkpoint(config.guide.opening, config.steps, skip_too_long=False, over=config.over)
    assert opened.model is not None
    return opened.model, {"weights": ModelSource.resolve(config.guide.checkpoint, config.guide.revision).identity}


def _message(problem: Problem, config: SearchConfig) -> str:
    prompt = build_prompt(problem.text, config.problems.text)
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _rule(config: SearchConfig, scorer: Scorer) -> str:
    """Where a step ends: as the options say, else by the guide's rule."""
    rule: str = config.steps or "blank_line"
    own = scorer.metadata.text.steps if isinstance(scorer, ImplicitPRM | RewardModel) else None
    if own == "given":
        raise ImplicitPRMError(
            "the guide scores given steps, and no steps are given for responses of a search; set steps (for a model "
            "that is open already, open it with another step rule)"
        )
    if config.steps is None and own is not None:
        rule = own
    elif config.steps is None and isinstance(scorer, ExactSteps):
        rule = "newline"
    if config.by_step and config.chunk_tokens is None and rule not in RULES:
        raise ImplicitPRMError(
            f"the guide splits steps by {rule}, whose ends cannot be seen while a response grows; set steps=newline, "
            "steps=blank_line or chunk_tokens"
        )
    return rule
