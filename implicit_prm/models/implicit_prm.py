"""ImplicitPRM: a policy, its reference and beta, which score responses step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from implicit_prm.config import Dtype, Quantization, TextConfig, from_mapping
from implicit_prm.data.tokenization import EncodedResponse, Encoder, context_length
from implicit_prm.models import forward, loading
from implicit_prm.models.checkpoint import ADAPTER_OFF, METADATA_FILE, NONE, BaselineMetadata, CheckpointMetadata
from implicit_prm.models.reference import open_cache, reference_logprobs, reference_model
from implicit_prm.models.reference_cache import ReferenceCache
from implicit_prm.models.rounding import warn_of_rounding
from implicit_prm.models.session import Session
from implicit_prm.models.shared_prompt import Ids, response_logprobs
from implicit_prm.models.source import ModelSource
from implicit_prm.rewards import implicit_reward
from implicit_prm.types import ImplicitPRMError, Prompt, StepScores
from implicit_prm.utils.io import set_weight_permissions


class ImplicitPRM:
    """A process reward model without process labels (Yuan et al., arXiv 2412.01981).

    Examples:
        >>> prm = ImplicitPRM.from_pretrained("outputs/ce")
        >>> best = prm.rerank(problem, responses)[0]
        >>> best.response, best.step_rewards, best.lowest_step

    Args:
        policy: the trained causal LM, or a PEFT model.
        tokenizer: its tokenizer.
        reference: a second causal LM; None if `metadata.reference` is `adapter_off` (PEFT models) or `none`.
        metadata: beta, text handling and provenance.
        max_length: limit on prompt and response together, in tokens; by default the model's context.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        reference: PreTrainedModel | None,
        metadata: CheckpointMetadata,
        max_length: int | None = None,
    ) -> None:
        self.policy, self.tokenizer, self.reference, self.metadata = policy, tokenizer, reference, metadata
        self.encoder = Encoder(tokenizer, metadata.text)
        for model in (policy, reference):
            if model is not None:
                loading.check_embeds(model, self.encoder)
        self.limit_tokens = context_length(policy.config, max_length)
        self.reference_source: ModelSource | None = None
        self.reference_cache: ReferenceCache | None = None
        self._rounding_checked = False

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        reference: str | None = None,
        beta: float | None = None,
        *,
        steps: str | None = None,
        prompt_template: str | None = None,
        template_kwargs: dict[str, Any] | None = None,
        max_length: int | None = None,
        revision: str | None = None,
        dtype: Dtype = "float32",
        quantization: Quantization | Literal["none"] | None = None,
        device: str | torch.device | None = None,
        token: str | None = None,
        trust_remote_code: bool = False,
    ) -> ImplicitPRM:
        """Open a checkpoint of `ipr-train`, or any causal LM together with a reference.

        Args:
            path_or_id: a folder that `ipr-train` or `save_pretrained` wrote, or the hub id or folder of a causal LM.
            reference: hub id or path of the reference; `none` scores with log pi_theta alone; by default the one that
                the checkpoint was trained against.
            beta: by default the checkpoint's.
            steps: step rule; by default the checkpoint's, or blank_line for other models.
            prompt_template: how a problem becomes a prompt, with {problem} in it; by default the checkpoint's.
            template_kwargs: variables of the chat template, such as enable_thinking; by default the checkpoint's.
            max_length: limit on prompt and response together, in tokens; a longer response is an error. By default the
                model's context, whatever the length in training.
            revision: branch, tag or commit on the hub.
            dtype: of policy and reference. bfloat16 has a noise of 0.04-0.06 nats per token, as large as the signal of
                a policy that was trained little.
            quantization: of the base of a LoRA adapter, `none` for no quantization; by default as in training.
            device: by default CUDA if available, else the CPU.
            token: access token for the hub.
            trust_remote_code: run Python code that comes with the model, with the base of an adapter, and with a
                `reference` that is given here, but not with one that only implicit_prm.json names.

        Returns:
            The model, ready to score.

        Raises:
            ImplicitPRMError: the model cannot be opened; or it has no implicit_prm.json, and reference or beta is not
                given.
        """
        source = ModelSource.resolve(path_or_id, revision, token, trust_remote_code)
        return cls.from_source(
            source,
            reference,
            beta,
            steps=steps,
            prompt_template=prompt_template,
            template_kwargs=template_kwargs,
            max_length=max_length,
            dtype=dtype,
            quantization=quantization,
            device=device,
        )

    @classmethod
    def from_source(
        cls,
        source: ModelSource,
        reference: str | None = None,
        beta: float | None = None,
        *,
        steps: str | None = None,
        prompt_template: str | None = None,
        template_kwargs: dict[str, Any] | None = None,
        max_length: int | None = None,
        dtype: Dtype = "float32",
        quantization: Quantization | Literal["none"] | None = None,
        device: str | torch.device | None = None,
    ) -> ImplicitPRM:
        """Open a model that is already resolved. The other arguments are those of `from_pretrained`."""
        text = {"steps": steps, "prompt_template": prompt_template, "template_kwargs": template_kwargs}
        metadata = _metadata(source, reference, beta, text)
        if quantization is not None:
            metadata = replace(metadata, quantization=None if quantization == "none" else quantization)
        if metadata.reference == ADAPTER_OFF and source.adapter is None:
            raise ImplicitPRMError(
                f"{source.name} is not a LoRA adapter, so its reference must be named: reference=PATH_OR_ID"
            )
        policy, metadata = loading.open_policy(source, metadata, dtype)
        tokenizer = loading.open_tokenizer(source)
        second, reference_source = None, None
        if metadata.reference == ADAPTER_OFF:
            reference_source = source.base
        elif metadata.reference != NONE:
            # Not of a reference that only the checkpoint's file names.
            trusted = source.trust_remote_code and metadata.reference == reference
            reference_source = ModelSource.resolve(
                metadata.reference, metadata.reference_revision, source.token, trusted
            )
            loading.check_same_tokens(tokenizer, reference_source)
            second = loading.open_model(reference_source, dtype, quantization=metadata.quantization)  # type: ignore[arg-type]
        prm = cls(policy, tokenizer, second, metadata, max_length)
        prm.reference_source = reference_source
        return prm.to(device or forward.best_device())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, tokenizer and implicit_prm.json. Plain AutoModelForCausalLM or PeftModel opens the folder."""
        self.policy.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.metadata.write(folder)
        set_weight_permissions(Path(folder), like=Path(folder) / self.metadata.file)

    def to(self, device: str | torch.device) -> ImplicitPRM:
        """Move policy and reference to a device. Models that bitsandbytes quantized stay where they are."""
        if self.metadata.quantization is None:
            self.policy.to(device)  # type: ignore[arg-type]
            if self.reference is not None:
                self.reference.to(device)  # type: ignore[arg-type]
        return self

    def open_reference_cache(self, folder: str | None = None) -> None:
        """Read and keep the reference's log-probabilities on disk from now on. Does nothing without a named reference.

        Args:
            folder: the folder of all caches; by default `$IPR_CACHE` or ~/.cache/implicit_prm.
        """
        if self.reference_source is not None:
            self.reference_cache = open_cache(self.reference or self.policy, self.reference_source, folder)

    def score(
        self,
        problem: Prompt,
        responses: Sequence[str],
        *,
        finished: Sequence[bool] | None = None,
        given_steps: Sequence[list[str]] | None = None,
        max_tokens: int | None = None,
    ) -> list[StepScores]:
        """Score the steps of every response to one problem.

        Args:
            problem: the problem's text, or a chat as a list of {role, content}.
            responses: the texts to score; an empty one has no steps, hence no rewards.
            finished: false for truncated responses, which get no end-of-turn token; by default all true.
            given_steps: the steps of each response, for the step rule `given`.
            max_tokens: in one forward pass, padding included; by default what suits the device.

        Returns:
            One `StepScores` per response, in the order given, with step rewards in beta x nats.

        Raises:
            ImplicitPRMError: a response over the model's context or `max_length`, or log-probabilities that are not
                finite.
        """
        prompt_ids = self.encoder.prompt_ids(problem)
        encoded = self.encoder.responses(responses, finished, given_steps)
        for place, one in enumerate(encoded):
            self.check_length(len(prompt_ids) + len(one.ids), place)
        ids = [one.ids for one in encoded]
        policy = response_logprobs(self.policy, prompt_ids, ids, self._budget(max_tokens))
        reference = self.reference_logprobs(prompt_ids, ids, max_tokens=max_tokens)
        if self.policy.dtype != torch.float32 and len(encoded) > 1 and not self._rounding_checked:
            self._rounding_checked = True
            warn_of_rounding(self.policy, prompt_ids, ids, policy, reference)
        return [
            self._step_scores(place, text, encoded[place], policy[place], reference[place] if reference else None)
            for place, text in enumerate(responses)
        ]

    def token_rewards(
        self,
        prompt_ids: Ids,
        responses: Sequence[Ids],
        reference: Sequence[Tensor] | None = None,
        *,
        max_tokens: int | None = None,
    ) -> list[Tensor]:
        """Reward of every token of responses that are token ids already, as a policy sampled them.

        Args:
            prompt_ids: tokens of the prompt.
            responses: tokens of each response, the end-of-turn token included if it has one.
            reference: [T] reference log-probabilities of each response, in nats; by default this model's reference
                computes them.
            max_tokens: in one forward pass, padding included; by default what suits the device.

        Returns:
            [T] float32 per response, in beta x nats, on the CPU. The last token has a reward, too.

        Raises:
            ImplicitPRMError: a response over the model's context or `max_length`, or log-probabilities that are not
                finite.
        """
        for place, ids in enumerate(responses):
            self.check_length(len(prompt_ids) + len(ids), place)
        if reference is None:
            reference = self.reference_logprobs(prompt_ids, responses, max_tokens=max_tokens)
        policy = response_logprobs(self.policy, prompt_ids, responses, self._budget(max_tokens))
        return [
            implicit_reward.response_rewards(
                values, None if reference is None else reference[place], self.metadata.beta, place
            )
            for place, values in enumerate(policy)
        ]

    def open(self, problem: Prompt, *, max_tokens: int | None = None) -> Session:
        """Start scoring responses to one problem while a search extends them, from the new tokens alone.

        The cache of reference log-probabilities on disk is not used.

        Args:
            problem: as for `score`.
            max_tokens: new tokens in one forward pass, padding included; by default what suits the device.

        Returns:
            A session with one row, the empty response.

        Raises:
            ImplicitPRMError: the prompt is over the model's context or `max_length`.
        """
        prompt_ids, budget = self.encoder.prompt_ids(problem), self._budget(max_tokens)
        return Session(self.policy, self.reference, self.metadata, prompt_ids, budget, self.check_length)

    def reference_logprobs(
        self, prompt_ids: Ids, responses: Sequence[Ids], *, max_tokens: int | None = None
    ) -> list[Tensor] | None:
        """Log-probabilities of the responses' tokens under the reference; None if there is no reference.

        Args:
            prompt_ids: tokens of the prompt.
            responses: tokens of each response.
            max_tokens: in one forward pass, padding included; by default what suits the device.

        Returns:
            [T] float32 per response, in nats, on the CPU.
        """
        if self.metadata.reference == NONE:
            return None
        with reference_model(self.policy, self.reference) as reference:
            found = reference_logprobs(reference, prompt_ids, responses, self._budget(max_tokens), self.reference_cache)
        return [torch.from_numpy(values) for values in found]

    def rerank(
        self, problem: Prompt, responses: Sequence[str], aggregate: str = "min", over: str = "step", **options: Any
    ) -> list[StepScores]:
        """Score the responses and sort them, best first.

        Args:
            problem: as for `score`.
            responses: as for `score`.
            aggregate: how step values become one number: min, max, last, mean, sum or product.
            over: which values: step, step_mean or prefix.
            options: further arguments of `score`.

        Returns:
            The scores; `index` is a response's position in `responses`.
        """
        scores = self.score(problem, responses, **options)
        return sorted(scores, key=lambda one: implicit_reward.aggregate(one, aggregate, over), reverse=True)

    def lengths(
        self,
        problem: Prompt,
        responses: Sequence[str],
        finished: Sequence[bool],
        given_steps: Sequence[list[str]] | None = None,
    ) -> list[int]:
        """Length of every response with its prompt, in tokens. The arguments are those of `score`.

        `given_steps` belongs to the `Scorer` protocol; here the steps do not change the length."""
        prompt = len(self.encoder.prompt_ids(problem))
        return [prompt + self.encoder.length(text, done) for text, done in zip(responses, finished, strict=True)]

    def check_length(self, length: int, place: int) -> None:
        """Check the length of a response with its prompt against the limit.

        Args:
            length: in tokens.
            place: index of the response, for the message.

        Raises:
            ImplicitPRMError: it is over the model's context or `max_length`.
        """
        forward.check_length(length, place, self.limit_tokens, context_length(self.policy.config, None))

    def _budget(self, max_tokens: int | None) -> int:
        return max_tokens or forward.token_budget(self.policy.device)

    def _step_scores(
        self, place: int, text: str, encoded: EncodedResponse, policy: Tensor, reference: Tensor | None
    ) -> StepScores:
        if not encoded.spans:
            return StepScores(text, [], [], [], index=place, step_tokens=[])
        rewards = implicit_reward.response_rewards(policy, reference, self.metadata.beta, place)
        step_of_token = torch.tensor(encoded.step_of_token)
        steps, prefixes = implicit_reward.step_rewards(rewards, step_of_token, len(encoded.spans))
        return StepScores(
            response=text,
            spans=encoded.spans,
            step_rewards=steps.tolist(),
            prefix_values=prefixes.tolist(),
            index=place,
            token_rewards=rewards.tolist(),
            token_spans=encoded.token_spans,
            reference_logprob=None if reference is None else math.fsum(reference.tolist()),
            step_tokens=step_of_token.bincount(minlength=len(encoded.spans)).tolist(),
        )


def _metadata(
    source: ModelSource, reference: str | None, beta: float | None, changes: dict[str, Any]
) -> CheckpointMetadata:
    """The checkpoint's metadata, with the values that the caller overrides."""
    if isinstance(source.metadata, CheckpointMetadata):
        metadata = source.metadata
    elif reference is None or beta is None:
        if isinstance(source.metadata, BaselineMetadata):
            raise ImplicitPRMError(
                f"{source.name} is an explicit reward model; implicit_prm.baselines.reward_model.RewardModel opens it"
            )
        raise ImplicitPRMError(
            f"{source.name} has no {METADATA_FILE}, so its reference and beta are unknown; give both, for example "
            "reference=meta-llama/Llama-3.1-8B-Instruct beta=0.05 (reference=none scores without one)"
        )
    else:
        metadata = CheckpointMetadata(beta, reference)
    if reference is not None and reference != metadata.reference:
        metadata = replace(metadata, reference=reference, reference_revision=None)
    text = asdict(metadata.text) | {name: value for name, value in changes.items() if value is not None}
    metadata = replace(metadata, beta=metadata.beta if beta is None else beta, text=from_mapping(TextConfig, text))
    metadata.validate()
    return metadata
