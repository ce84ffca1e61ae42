"""Options of `ipr-rollout`: problems, sampling, where to write."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from implicit_prm.config.mapping import at_least
from implicit_prm.config.models import PolicyConfig
from implicit_prm.types import ImplicitPRMError


@dataclass
class ProblemsConfig:
    """Problems with known answers to sample responses for."""

    name: str
    split: str = "test"
    revision: str | None = None
    limit: int | None = None
    prompt_template: str = "{problem}"
    system_prompt: str | None = None
    path: str | None = None

    def validate(self) -> None:
        at_least(self, 1, "limit", where="problems.")
        if "{problem}" not in self.prompt_template:
            raise ImplicitPRMError("problems.prompt_template must contain {problem}, where the problem's text goes")
        if self.prompt_template.startswith("raw:") and self.system_prompt is not None:
            raise ImplicitPRMError(
                "problems.system_prompt has no place in a raw: prompt_template, which is plain text; write it into the "
                "template"
            )
        if self.path is not None and self.revision is not None:
            raise ImplicitPRMError(
                "problems.path is a local copy, and problems.revision a commit on the hub; drop one of them"
            )
        if self.name == "sandbox" and (self.path is not None or self.revision is not None):
            raise ImplicitPRMError("the sandbox makes its problems itself; drop problems.path and problems.revision")


# What a server must be told so that temperature and top-p alone shape the distribution, as they do with transformers:
# vLLM and SGLang start from the model's generation_config.json, llama.cpp from a top-k of 40 and a min-p of 0.05.
NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0}

_SET_ELSEWHERE = {
    "model": "policy.name",
    "n": "sampling.n",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "max_tokens": "sampling.max_new_tokens",
    "seed": "sampling.seed",
    "messages": "problems.prompt_template",
    "prompt": "problems.prompt_template",
}


@dataclass
class ServerConfig:
    """A model behind a server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp."""

    base_url: str
    name: str
    api_key_env: str | None = None
    concurrency: int = 16
    timeout_s: float = 600.0
    retries: int = 12
    extra_body: dict[str, Any] | None = field(default_factory=lambda: dict(NEUTRAL))

    def validate(self) -> None:
        at_least(self, 1, "concurrency", where="policy.")
        at_least(self, 0, "retries", where="policy.")
        if not self.timeout_s > 0:
            raise ImplicitPRMError(f"policy.timeout_s is {self.timeout_s}; it must be above 0")
        try:
            url = urlsplit(self.base_url)
        except ValueError as error:
            raise ImplicitPRMError(f"policy.base_url={self.base_url}: {error}") from None
        if url.scheme not in ("http", "https") or not url.netloc:
            raise ImplicitPRMError(
                f"policy.base_url={self.base_url}: not an address; expected one like http://localhost:8000/v1"
            )
        if url.username or url.query:  # the address is written down beside the rollouts
            raise ImplicitPRMError(
                "policy.base_url must hold no user name, password or query; name the environment variable that holds "
                "the key in policy.api_key_env"
            )
        for key in self.extra_body or {}:
            if key in _SET_ELSEWHERE:
                raise ImplicitPRMError(f"policy.extra_body.{key}: set {_SET_ELSEWHERE[key]} instead")
            if key == "stream":
                raise ImplicitPRMError("policy.extra_body.stream: answers are read whole; leave it out")


@dataclass
class SamplingConfig:
    n: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 1024
    batch_size: int | None = None
    seed: int = 0

    @property
    def problems_per_batch(self) -> int:
        """Of transformers; a server has no use for it."""
        return self.batch_size or 4

    def validate(self) -> None:
        at_least(self, 1, "n", "max_new_tokens", "batch_size", where="sampling.")
        if self.temperature <= 0:
            raise ImplicitPRMError(
                f"sampling.temperature is {self.temperature}; it must be above 0: n equal responses teach nothing"
            )
        if not 0 < self.top_p <= 1:
            raise ImplicitPRMError(f"sampling.top_p is {self.top_p}; it must be in (0, 1]")


@dataclass
class RolloutConfig:
    policy: ServerConfig | PolicyConfig
    problems: ProblemsConfig
    sampling: SamplingConfig
    output: str

    def validate(self) -> None:
        if isinstance(self.policy, ServerConfig) and self.sampling.batch_size is not None:
            raise ImplicitPRMError(
                f"sampling.batch_size={self.sampling.batch_size}: a server forms its batches itself. Leave it null (as "
                "sampling=default does) and set policy.concurrency"
            )
