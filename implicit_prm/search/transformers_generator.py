"""The generator in this process: a model of transformers, with or without token-level guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from implicit_prm.config import SearchConfig, TokensConfig
from implicit_prm.data.tokenization import Encoder, context_length
from implicit_prm.models import loading
from implicit_prm.models.checkpoint import ADAPTER_OFF, NONE
from implicit_prm.models.forward import base_model
from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.models.source import ModelSource
from implicit_prm.rollouts.generation import DecodingRows
from implicit_prm.rollouts.transformers_sampler import open_for_sampling, policy_identity, too_long
from implicit_prm.search.mixed_rows import MixedRows, Rows
from implicit_prm.search.protocols import RefusedError
from implicit_prm.search.step_ends import StepEnds
from implicit_prm.search.transformers_generation import TransformersGeneration
from implicit_prm.types import ImplicitPRMError, Problem


class TransformersGenerator:
    """Opens a policy in this process; see `Generator`.

    Args:
        config: the options.
        rule: where a step ends.
        prm: the guide, if it is an implicit PRM.

    Raises:
        ImplicitPRMError: the policy cannot be opened, or it cannot be guided token by token.
    """

    workers = 1

    def __init__(self, config: SearchConfig, rule: str, prm: ImplicitPRM | None) -> None:
        self._config, self._prm = config, prm
        source = ModelSource.of(config.policy)  # type: ignore[arg-type]
        self._encoder = Encoder(loading.open_tokenizer(source), config.problems.text)
        self._model = open_for_sampling(source, config.policy)  # type: ignore[arg-type]
        self._context = context_length(self._model.config, None)
        self._step_ends = StepEnds(self._encoder.tokenizer, rule, config.chunk_tokens) if config.by_step else None
        self.is_reference = prm is not None and _is_reference(source, self._model, prm)
        if isinstance(config.algorithm, TokensConfig):
            self._check_guidable(source)
        self.identity = policy_identity(source, self._encoder)

    def open(self, problem: Problem, place: int) -> TransformersGeneration:
        """Start the responses to a problem; see `Generator`."""
        sampling = self._config.sampling
        prompt = self._encoder.prompt_ids(problem.text)
        if reason := too_long(len(prompt), sampling.max_new_tokens, self._context):
            raise RefusedError(reason)
        assert sampling.seed is not None  # RolloutConfig.validate

        def open_rows(responses: Sequence[Sequence[int]]) -> Rows:
            return self._open_rows(problem, [[*prompt, *ids] for ids in responses])

        return TransformersGeneration(
            open_rows,
            self._encoder,
            len(prompt),
            sampling,
            (sampling.seed, place),
            self._step_ends,
            self._samples_from_reference(problem, prompt),
            self._models,
        )

    def _samples_from_reference(self, problem: Problem, prompt: Sequence[int]) -> bool:
        """Whether tokens are drawn from the guide's reference, after the prompt that the guide reads."""
        if not self.is_reference or self._prm is None or isinstance(self._config.algorithm, TokensConfig):
            return False
        # The guide renders the prompt with its own template, as in training.
        return self._prm.encoder.prompt_ids(self._encoder.build_prompt(problem.text)) == list(prompt)

    def _open_rows(self, problem: Problem, contexts: Sequence[Sequence[int]]) -> Rows:
        algorithm, prm = self._config.algorithm, self._prm
        if not isinstance(algorithm, TokensConfig) or prm is None:
            return DecodingRows(self._model, contexts)
        parts = []
        generator, _, reference = self._weights
        if generator:
            parts.append((DecodingRows(self._model, contexts), generator))
        parts.append((DecodingRows(base_model(prm.policy), contexts), algorithm.weight))
        if reference and prm.reference is not None:
            parts.append((DecodingRows(prm.reference, contexts), reference))
        elif reference:
            disabled: Any = prm.policy.disable_adapter
            parts.append((DecodingRows(base_model(prm.policy), contexts, disabled), reference))
        return MixedRows(parts)

    @property
    def _weights(self) -> tuple[float, float, float]:
        """Of the log-probabilities of generator, pi_theta and pi_ref."""
        if not isinstance(self._config.algorithm, TokensConfig):
            return 1.0, 0.0, 0.0
        weight = self._config.algorithm.weight
        return (1.0 - weight, weight, 0.0) if self.is_reference else (1.0, weight, -weight)

    @property
    def _models(self) -> tuple[int, int]:
        generator, policy, reference = map(bool, self._weights)
        return int(generator), policy + reference

    def _check_guidable(self, source: ModelSource) -> None:
        if self._prm is None or self._prm.metadata.reference == NONE:
            raise ImplicitPRMError("algorithm=tokens needs an implicit PRM with a reference as the guide")
        if self._prm.tokenizer.get_vocab() != self._encoder.tokenizer.get_vocab():
            raise ImplicitPRMError(
                f"algorithm=tokens: policy {source.name} and the guide have different vocabularies; use a policy of "
                "the guide's model family"
            )


def _is_reference(source: ModelSource, model: Any, prm: ImplicitPRM) -> bool:
    """Whether the generator and the PRM's reference are the same model: weights, their type and quantization."""
    reference = prm.reference_source
    if prm.metadata.quantization is not None:  # the generator is never quantized
        return False
    if reference is None or reference.weights() != source.weights() or reference.identity != source.identity:
        return False
    held = prm.policy if prm.metadata.reference == ADAPTER_OFF else prm.reference
    return base_model(held).dtype == model.dtype
