"""Options of `ipr-search`: the generator, the guide, and the algorithm that decides which prefixes continue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from implicit_prm.config.checkpoint import CheckpointConfig
from implicit_prm.config.evaluation import Aggregate, Over
from implicit_prm.config.models import MAX_BETA, Dtype, Quantization, StepRule
from implicit_prm.config.rollouts import RolloutConfig, ServerConfig
from implicit_prm.config.validation import check_range
from implicit_prm.types import ImplicitPRMError


@dataclass
class BestOfNSearchConfig:
    """Sample n whole responses and score them at the end: no search, for comparison."""

    name: Literal["best_of_n"] = "best_of_n"


@dataclass
class BeamConfig:
    """Beam search over steps: keep the best 1/`branch` of the prefixes and continue each of them `branch` times."""

    branch: int = 4
    name: Literal["beam"] = "beam"

    def validate(self) -> None:
        check_range(self, "branch", at_least=2, where="algorithm.")


@dataclass
class DVTSConfig:
    """Diverse verifier tree search: n / `branch` independent trees, each of which continues its best prefix."""

    branch: int = 4
    name: Literal["dvts"] = "dvts"

    def validate(self) -> None:
        check_range(self, "branch", at_least=2, where="algorithm.")


@dataclass
class RebaseConfig:
    """REBASE (arXiv 2408.00724): prefixes get continuations in proportion to exp(value / `temperature`)."""

    temperature: float = 1.0
    name: Literal["rebase"] = "rebase"

    def validate(self) -> None:
        check_range(self, "temperature", above=0, where="algorithm.")


@dataclass
class ParticlesConfig:
    """Particle filtering: after every step, prefixes are resampled by exp(change of value / `temperature`)."""

    temperature: float = 1.0
    name: Literal["particles"] = "particles"

    def validate(self) -> None:
        check_range(self, "temperature", above=0, where="algorithm.")


@dataclass
class TokensConfig:
    """Token-level guidance: sample each token from p_generator x (pi_theta / pi_ref)^`weight`, and score at the end."""

    weight: float = 0.2
    name: Literal["tokens"] = "tokens"

    def validate(self) -> None:
        check_range(self, "weight", above=0, where="algorithm.")


AlgorithmConfig = BestOfNSearchConfig | BeamConfig | DVTSConfig | RebaseConfig | ParticlesConfig | TokensConfig


@dataclass
class CheckpointGuide:
    """A checkpoint of `ipr-train` or `ipr-baseline` as the guide, or any causal LM with a `reference` and a `beta`.

    Args:
        checkpoint: Folder or hub id.
        reference: Reference of an implicit PRM; None is the one it was trained with, `none` uses no reference.
        beta: Beta of an implicit PRM; None is the one it was trained with.
        revision: Branch, tag or commit of the checkpoint on the hub.
        dtype: Type of the weights.
        quantization: Quantization of the base below a LoRA adapter; None as in training, `none` for no quantization.
        trust_remote_code: Run Python code that comes with the checkpoint, or with a `reference` that is named here.
        max_tokens_per_batch: Tokens per forward pass, with padding; None for a default by device.
    """

    checkpoint: str
    reference: str | None = None
    beta: float | None = None
    revision: str | None = None
    dtype: Dtype = "float32"
    quantization: Quantization | Literal["none"] | None = None
    trust_remote_code: bool = False
    max_tokens_per_batch: int | None = None
    kind: Literal["checkpoint"] = "checkpoint"

    implied_by = "checkpoint"

    @property
    def opening(self) -> CheckpointConfig:
        """How the checkpoint is opened. The scores of prefixes are not used again, so nothing is cached."""
        return CheckpointConfig(
            checkpoint=self.checkpoint,
            reference=self.reference,
            beta=self.beta,
            revision=self.revision,
            dtype=self.dtype,
            quantization=self.quantization,
            trust_remote_code=self.trust_remote_code,
            max_tokens_per_batch=self.max_tokens_per_batch,
            reference_cache=None,
        )

    def validate(self) -> None:
        check_range(self, "beta", above=0, at_most=MAX_BETA, where="guide.")
        check_range(self, "max_tokens_per_batch", at_least=1, where="guide.")


@dataclass
class ExactGuide:
    """The sandbox's checker as the guide, 1 for a right step and 0 for a wrong one: an upper bound."""

    kind: Literal["exact"] = "exact"


@dataclass(kw_only=True)
class SearchConfig(RolloutConfig):
    """`ipr-search`: search for responses with a guide, grade them, and write candidates for `ipr-eval`.

    `sampling.n` is the number of responses that are kept at a time, and in the end.

    Args:
        algorithm: Which prefixes are continued.
        guide: What scores them; None if a scorer is given in Python.
        aggregate: How the values of a prefix's steps become the value that prefixes are compared by.
        over: Value of a step: its reward (`step`), the mean reward of its tokens (`step_mean`), or the sum of the
            rewards up to its end (`prefix`).
        steps: Where a step ends, but not `given`; None for the guide's rule.
        chunk_tokens: Compare prefixes whenever they have grown by this many tokens, not at the ends of steps.
        tokenizer: Hub id or folder of the tokenizer of a model on a server; None for `policy.name`.
    """

    algorithm: AlgorithmConfig
    guide: CheckpointGuide | ExactGuide | None = None
    aggregate: Aggregate = "min"
    over: Over = "step"
    steps: StepRule | None = None
    chunk_tokens: int | None = None
    tokenizer: str | None = None

    @property
    def by_step(self) -> bool:
        """Whether the algorithm compares prefixes; otherwise whole responses are generated at once."""
        return not isinstance(self.algorithm, BestOfNSearchConfig | TokensConfig)

    def validate(self) -> None:
        super().validate()
        server = isinstance(self.policy, ServerConfig)
        if self.sampling.batch_size is not None:
            raise ImplicitPRMError(
                f"sampling.batch_size={self.sampling.batch_size}: the responses to one problem are searched together; "
                "set sampling.batch_size=null"
            )
        branch = getattr(self.algorithm, "branch", 1)
        if self.sampling.n % branch:
            raise ImplicitPRMError(
                f"sampling.n={self.sampling.n} is not a multiple of algorithm.branch={branch}; change one of them"
            )
        if self.tokenizer is not None and not server:
            raise ImplicitPRMError("tokenizer is for policy=server; a model in this process has its own")
        self._check_guide(server)
        check_range(self, "chunk_tokens", at_least=1)
        if self.chunk_tokens is not None and not self.by_step:
            raise ImplicitPRMError(f"chunk_tokens: algorithm={self.algorithm.name} compares no prefixes; leave it out")

    def _check_guide(self, server: bool) -> None:
        exact = isinstance(self.guide, ExactGuide)
        if isinstance(self.algorithm, TokensConfig) and (server or exact):
            raise ImplicitPRMError(
                "algorithm=tokens needs the logits of every token: those of a model in this process (policy=hub) and "
                "of an implicit PRM (guide=checkpoint)"
            )
        if exact and self.problems.name != "sandbox":
            raise ImplicitPRMError(
                f"guide=exact: only the sandbox's steps can be checked, not those of problems.name={self.problems.name}"
            )
        if exact and self.over != "step":
            raise ImplicitPRMError(f"over={self.over}: the exact checker has no log-ratios; set over=step")
        if exact and self.chunk_tokens is not None:
            raise ImplicitPRMError(
                f"chunk_tokens={self.chunk_tokens}: the exact checker takes an unfinished line for a wrong one; set "
                "chunk_tokens=null"
            )
        if exact and self.steps not in (None, "newline"):
            raise ImplicitPRMError(f"steps={self.steps}: the exact checker checks lines; set steps=newline")
        if self.steps == "given":
            raise ImplicitPRMError("steps=given: no steps are given for responses of a search; set another step rule")
        if self.by_step and self.chunk_tokens is None and self.steps == "step_marker":
            raise ImplicitPRMError(
                "steps=step_marker: while a response grows, only the ends of steps=newline and steps=blank_line can be "
                "seen; set one of them, or chunk_tokens"
            )
