"""ImplicitPRM: a policy, its reference and beta, that score responses step by step."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from implicit_prm.config import Dtype, PolicyConfig, Quantization, TextConfig, from_mapping
from implicit_prm.data.tokenization import EncodedResponse, Encoder, context_length
from implicit_prm.models import forward, loading, lora
from implicit_prm.models.checkpoint import ADAPTER_OFF, NONE, SETTINGS_FILE, Settings
from implicit_prm.models.load_errors import clear_load_errors
from implicit_prm.models.reference import open_cache, reference_logprobs
from implicit_prm.models.reference_cache import ReferenceCache
from implicit_prm.models.shared_prompt import response_logprobs, rounding_noise
from implicit_prm.rewards import implicit_reward
from implicit_prm.types import ImplicitPRMError, Prompt, StepScores


class ImplicitPRM:
    """A process reward model without process labels (Yuan et al., arXiv 2412.01981).

    Example:
        >>> prm = ImplicitPRM.from_pretrained("outputs/ce")
        >>> best = prm.rerank(problem, responses)[0]
        >>> best.response, best.step_rewards, best.lowest_step

    Args:
        policy: the trained causal LM, or a PEFT model.
        tokenizer: its tokenizer.
        reference: a second LM; None with `settings.reference` adapter_off (PEFT) or none (log pi_theta alone).
        settings: beta, text handling and provenance.
        max_length: of prompt and response together, in tokens, where it is to be below the model's context.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        reference: PreTrainedModel | None,
        settings: Settings,
        max_length: int | None = None,
    ) -> None:
        self.policy, self.tokenizer, self.reference, self.settings = policy, tokenizer, reference, settings
        self.encoder = Encoder(tokenizer, settings.text)
        for model in (policy, reference):
            if model is not None:
                loading.check_embeds(model, self.encoder)
        self.limit_tokens = context_length(policy.config, max_length)
        self.reference_cache: ReferenceCache | None = None
        self._noise_known = False

    def open_reference_cache(self, folder: str | None = None) -> None:
        """Keep the reference's log-probabilities on disk from now on, and read those that are there.

        Args:
            folder: of all caches; by default `$IPR_CACHE` or ~/.cache/implicit_prm.
        """
        if self.settings.reference == NONE:
            return
        settings = self.settings
        name, revision = settings.base, settings.base_revision
        if settings.reference != ADAPTER_OFF:
            name, revision = settings.reference, settings.reference_revision
        if name is not None:
            self.reference_cache = open_cache(self.reference or self.policy, name, revision, folder)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        reference: str | None = None,
        beta: float | None = None,
        *,
        steps: str | None = None,
        prompt_template: str | None = None,
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
            path_or_id: a folder that `ipr-train` or `save_pretrained` wrote, or a hub id or folder of a causal LM.
            reference: hub id or path of the reference; `none` scores with log pi_theta alone; by default what the
                checkpoint was trained against.
            beta: by default what the checkpoint was trained with.
            steps: step rule, by default the checkpoint's (blank_line for a plain model).
            prompt_template: what to make of problems that are not prompts yet, with {problem} in it; by default the
                checkpoint's.
            max_length: refuse a response that is longer with its prompt, in tokens; by default the model's context,
                whatever the checkpoint was trained on.
            dtype: of policy and reference alike. float32 by default: bfloat16 noise, 0.04-0.06 nats a token, is as
                large as a weakly trained policy's signal.
            quantization: of the base that a LoRA adapter sits on, `none` for no rounding; by default as in training.
            device: by default CUDA where there is one.
            trust_remote_code: run Python code that comes with the models.

        Raises:
            ImplicitPRMError: the folder has no implicit_prm.json and beta or reference is not given; a model that
                cannot be opened.
        """
        name = str(path_or_id)
        saved = saved_settings(name, revision, token)
        if saved is not None:
            settings = saved
        elif reference is None or beta is None:
            raise ImplicitPRMError(
                f"{name} has no {SETTINGS_FILE}, so its reference and beta are unknown; give both, for example "
                "reference=meta-llama/Llama-3.1-8B-Instruct beta=0.05 (reference=none scores without one)"
            )
        else:
            settings = Settings(beta, reference)
        if reference is not None and reference != settings.reference:
            settings.reference, settings.reference_revision = reference, None
        settings.beta = settings.beta if beta is None else beta
        given = {"steps": steps, "prompt_template": prompt_template}
        changed = {name: value for name, value in given.items() if value is not None}
        settings.text = from_mapping(TextConfig, {**asdict(settings.text), **changed})
        if quantization is not None:
            settings.quantization = None if quantization == "none" else quantization
        opened = PolicyConfig(name, revision, dtype, trust_remote_code=trust_remote_code)
        policy = open_policy(opened, settings, token)
        tokenizer = loading.open_tokenizer(opened, token)
        second = None
        if settings.reference not in (NONE, ADAPTER_OFF):
            loading.check_same_tokens(tokenizer, settings.reference, settings.reference_revision, token)
            second = loading.open_model(
                replace(opened, name=settings.reference, revision=settings.reference_revision),
                token,
                settings.quantization,
            )
        elif settings.reference == ADAPTER_OFF and not hasattr(policy, "disable_adapter"):
            raise ImplicitPRMError(
                f"{name} is not a LoRA adapter, so its reference must be named: reference=PATH_OR_ID"
            )
        return cls(policy, tokenizer, second, settings, max_length).to(device or forward.best_device())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, tokenizer and implicit_prm.json; plain AutoModelForCausalLM or PeftModel opens the folder."""
        self.policy.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.settings.write(folder)

    def to(self, device: str | torch.device) -> ImplicitPRM:
        """Move policy and reference to a device. Models that bitsandbytes rounded stay where they were opened."""
        if self.settings.quantization is None:
            self.policy.to(device)  # type: ignore[arg-type]
            if self.reference is not None:
                self.reference.to(device)  # type: ignore[arg-type]
        return self

    def score(
        self,
        problem: Prompt,
        responses: Sequence[str],
        *,
        finished: Sequence[bool] | None = None,
        given_steps: Sequence[list[str]] | None = None,
        max_tokens: int | None = None,
    ) -> list[StepScores]:
        """Step rewards of every response, in the order given.

        Args:
            problem: the problem's text, or a chat as a list of {role, content}.
            responses: the texts to score; an empty one has no step, hence no rewards.
            finished: false for responses that were cut off, which then get no end-of-turn token.
            given_steps: the steps of each response, with step rule `given`.
            max_tokens: in one forward pass, padding included; by default what suits the device.

        Raises:
            ImplicitPRMError: a response over the model's context or `max_length`, or log-probabilities that are not
                finite.
        """
        finished = finished if finished is not None else [True] * len(responses)
        prompt_ids = self.encoder.prompt_ids(problem)
        encoded = [
            self.encoder.response(text, done, given_steps[place] if given_steps is not None else None)
            for place, (text, done) in enumerate(zip(responses, finished, strict=True))
        ]
        for place, one in enumerate(encoded):
            self.check_length(len(prompt_ids) + len(one.ids), place)
        policy, reference = self._logprobs(prompt_ids, [one.ids for one in encoded], max_tokens)
        if self.policy.dtype != torch.float32 and len(encoded) > 1 and not self._noise_known:
            self._warn_of_noise(prompt_ids, encoded, policy, reference)
        return [
            self._step_scores(place, text, encoded[place], policy[place], reference[place] if reference else None)
            for place, text in enumerate(responses)
        ]

    def rerank(
        self, problem: Prompt, responses: Sequence[str], aggregate: str = "min", over: str = "step", **options: Any
    ) -> list[StepScores]:
        """The responses' scores, best first; `index` is a response's place in the list that was given."""
        scores = self.score(problem, responses, **options)
        return sorted(scores, key=lambda one: implicit_reward.aggregate(one, aggregate, over), reverse=True)

    def lengths(
        self,
        problem: Prompt,
        responses: Sequence[str],
        finished: Sequence[bool],
        given_steps: Sequence[list[str]] | None = None,
    ) -> list[int]:
        """Tokens of every response with the prompt. `given_steps`, as for `score`, adds none."""
        prompt = len(self.encoder.prompt_ids(problem))
        return [prompt + self.encoder.length(text, done) for text, done in zip(responses, finished, strict=True)]

    def _logprobs(
        self, prompt_ids: list[int], responses: list[list[int]], max_tokens: int | None
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        budget = max_tokens or forward.token_budget(self.policy.device)
        policy = response_logprobs(self.policy, prompt_ids, responses, budget)
        if self.settings.reference == NONE:
            return policy, None
        with reference_model(self.policy, self.reference) as reference:
            found = reference_logprobs(reference, prompt_ids, responses, budget, self.reference_cache)
        return policy, [torch.from_numpy(values) for values in found]

    def _step_scores(
        self, place: int, text: str, encoded: EncodedResponse, policy: Tensor, reference: Tensor | None
    ) -> StepScores:
        if not encoded.spans:
            return StepScores(text, [], [], [], index=place, step_tokens=[])
        ratio = implicit_reward.token_log_ratio(policy, reference, torch.ones_like(policy, dtype=torch.bool))
        rewards = implicit_reward.token_rewards(ratio, self.settings.beta)
        if not rewards.isfinite().all():
            raise ImplicitPRMError(
                f"response {place}: log-probabilities that are not finite; float16 overflows in some models, use "
                "dtype=bfloat16 or float32"
            )
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

    def _warn_of_noise(
        self,
        prompt_ids: list[int],
        encoded: Sequence[EncodedResponse],
        policy: Sequence[Tensor],
        reference: Sequence[Tensor] | None,
    ) -> None:
        """Half precision may round by as much as a weakly trained policy differs from its reference. Looked at once."""
        self._noise_known = True
        sums = [one.sum() - (0 if reference is None else reference[place].sum()) for place, one in enumerate(policy)]
        spread = torch.stack(sums).std().item()
        few = [one.ids for one in encoded[:4]]
        noise = rounding_noise(self.policy, prompt_ids, few) * (1 if reference is None else math.sqrt(2))
        if noise > 0.25 * spread:
            warnings.warn(
                f"{self.policy.dtype} rounds a response's log-ratio by about {noise:.2g} nats, and the log-ratios of "
                f"these responses spread by {spread:.2g}; rank with dtype=float32, or with float16, which rounds eight "
                "times less than bfloat16",
                stacklevel=3,
            )

    def check_length(self, length: int, place: int) -> None:
        """Refuse a response over the limit. `length` is in tokens, prompt included."""
        if self.limit_tokens is None or length <= self.limit_tokens:
            return
        whose, way_out = "the model's context", "use a model with a longer context"
        if self.limit_tokens != context_length(self.policy.config, None):
            whose, way_out = "max_length", "raise max_length"
        raise ImplicitPRMError(
            f"response {place} is {length} tokens long with its prompt; the limit is {self.limit_tokens}, {whose}. "
            f"Leave it out, {way_out}, or (ipr-eval) set too_long"
        )


@contextlib.contextmanager
def reference_model(policy: Any, reference: PreTrainedModel | None) -> Iterator[Any]:
    """The model that plays the reference: the second one, or the policy with its adapter switched off."""
    if reference is not None:
        yield reference
        return
    with policy.disable_adapter():
        yield policy


def saved_settings(name: str, revision: str | None = None, token: str | None = None) -> Settings | None:
    """What an implicit PRM was saved with; None for a model that is none.

    Raises:
        ImplicitPRMError: a path that is not there, or damaged settings.
    """
    found = settings_file(name, revision, token)
    if found is None:
        return None
    settings = Settings.read(found.parent)
    _fetch_parts(settings, name, found.parent, revision, token)
    return settings


def settings_file(name: str, revision: str | None, token: str | None, file: str = SETTINGS_FILE) -> Path | None:
    """implicit_prm.json (or another file) of a folder or a hub repository, None where there is none.

    Raises ImplicitPRMError for what looks like a path and is not there.
    """
    folder = Path(loading.locate(name))
    if folder.is_dir():
        return folder / file if (folder / file).exists() else None
    if folder.is_absolute() or name.count("/") != 1 or name.startswith("."):
        raise ImplicitPRMError(f"checkpoint {name}: no such folder")
    try:
        return Path(hf_hub_download(name, file, revision=revision, token=token))
    except (HfHubHTTPError, OSError, ValueError):  # no such file or repository, or no network: opening it will tell
        return None


def _fetch_parts(settings: Settings, name: str, folder: Path, revision: str | None, token: str | None) -> None:
    """Models that lie inside a checkpoint on the hub, which was opened by its implicit_prm.json alone."""
    for part in (settings.base, settings.reference):
        if part is not None and Path(part).is_relative_to(folder.absolute()) and not Path(part).is_dir():
            pattern = f"{Path(part).relative_to(folder.absolute())}/*"
            with clear_load_errors(name):
                snapshot_download(name, revision=revision, token=token, allow_patterns=pattern)


def open_policy(config: PolicyConfig, settings: Settings, token: str | None = None) -> Any:
    """A full model, or a LoRA adapter on its base, which the settings name (adapter_config.json where they do not).

    An adapter on the output head cannot be switched off where log-probabilities are read: it is merged, and `settings`
    changed to name the base as a second model.

    Raises:
        ImplicitPRMError: it cannot be opened, or is rounded (`settings.quantization`) without being an adapter.
    """
    adapter = lora.find(loading.locate(config.name), config.revision, token)
    if adapter is None:
        if settings.quantization is not None:
            raise ImplicitPRMError(
                f"quantization={settings.quantization}: {config.name} is no adapter. Rounding a whole policy would be "
                "read as reward, since its reference rounds otherwise"
            )
        return loading.open_model(config, token)
    if settings.base is not None:
        adapter = replace(adapter, base=settings.base, base_revision=settings.base_revision)
    base = loading.open_base(config, adapter, token, settings.quantization)
    policy = lora.put_on(base, adapter, token)
    if settings.quantization is None and not lora.has_plain_head(policy.get_base_model()):
        policy = lora.merge(policy)
        if settings.reference == ADAPTER_OFF:
            settings.reference, settings.reference_revision = adapter.base, adapter.base_revision
        settings.base = settings.base_revision = None
    return policy
