"""Options of `ipr-rollout`: the problems, the policy that answers them, sampling, and the output file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from implicit_prm.config.grading import GradingConfig
from implicit_prm.config.models import Dtype, LanguageModelConfig, TextConfig
from implicit_prm.config.validation import check_range
from implicit_prm.types import ImplicitPRMError

# Servers start from other defaults: vLLM and SGLang from the model's generation_config.json, llama.cpp from a top-k of
# 40 and a min-p of 0.05. With these values only temperature and top-p shape the distribution, as with transformers.
NEUTRAL_SAMPLING = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0}

# Fields of a request that have an option of their own.
_REQUEST_OPTIONS = {
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
class ProblemsConfig:
    """Problems with known answers.

    Args:
        name: `gsm8k`, `math`, `math500`, `sandbox`, or a hub id or local file with columns `problem` and `answer`.
        split: Split of the dataset.
        revision: Branch, tag or commit of the dataset on the hub.
        limit: Number of problems to use, from the first; None for all.
        prompt_template: The user's turn, with {problem} for the problem's text. A `raw:` in front means plain text
            without the chat template.
        system_prompt: System message, or None.
        template_kwargs: Variables of the chat template, such as {"enable_thinking": False} for Qwen3, or None.
        path: Local copy of a known dataset.
    """

    name: str
    split: str = "train"
    revision: str | None = None
    limit: int | None = None
    prompt_template: str = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
    system_prompt: str | None = None
    template_kwargs: dict[str, Any] | None = None
    path: str | None = None

    @property
    def text(self) -> TextConfig:
        """How a problem becomes a prompt."""
        return TextConfig(
            prompt_template=self.prompt_template,
            system_prompt=self.system_prompt,
            template_kwargs=self.template_kwargs,
        )

    def validate(self) -> None:
        check_range(self, "limit", at_least=1, where="problems.")
        self.text.validate("problems.")
        if self.prompt_template.startswith("raw:") and self.system_prompt is not None:
            raise ImplicitPRMError(
                "problems.system_prompt cannot be used with a raw: prompt_template, which is plain text; write it into "
                "the template"
            )
        if self.path is not None and self.revision is not None:
            raise ImplicitPRMError("problems.path is a local copy, problems.revision a commit on the hub; set only one")
        if self.name == "sandbox" and (self.path is not None or self.revision is not None):
            raise ImplicitPRMError(
                "problems.path and problems.revision: the sandbox generates its problems; leave them out"
            )


@dataclass
class PolicyConfig(LanguageModelConfig):
    """A policy that samples in this process, with transformers."""

    dtype: Dtype = "auto"
    kind: Literal["transformers"] = "transformers"

    implied_by = "name"


@dataclass
class ServerConfig:
    """A policy on a server with an OpenAI-compatible API, such as vLLM, SGLang or llama.cpp.

    Args:
        base_url: Address of the API, such as http://localhost:8000/v1.
        name: Name of the model on the server.
        api_key_env: Environment variable that holds the API key.
        concurrency: Number of requests in flight, one problem each.
        timeout_s: Time limit of a request in seconds, including its time in the server's queue and all retries.
        retries: Number of retries of a request after a connection error, a timeout, HTTP 429 or HTTP 5xx.
        extra_body: More fields of the request.
    """

    base_url: str
    name: str
    api_key_env: str | None = None
    concurrency: int = 16
    timeout_s: float = 600.0
    retries: int = 12
    extra_body: dict[str, Any] | None = field(default_factory=lambda: dict(NEUTRAL_SAMPLING))
    kind: Literal["server"] = "server"

    implied_by = "base_url"

    def validate(self) -> None:
        check_range(self, "concurrency", at_least=1, where="policy.")
        check_range(self, "retries", at_least=0, where="policy.")
        check_range(self, "timeout_s", above=0, where="policy.")
        try:
            url = urlsplit(self.base_url)
        except ValueError as error:
            raise ImplicitPRMError(f"policy.base_url={self.base_url}: {error}") from None
        if url.scheme not in ("http", "https") or not url.netloc:
            raise ImplicitPRMError(f"policy.base_url={self.base_url}: expected a URL such as http://localhost:8000/v1")
        if "@" in url.netloc or url.query or url.fragment:  # the address is written to a file next to the rollouts
            raise ImplicitPRMError(
                "policy.base_url must not contain a user name, password, query or fragment; name the environment "
                "variable with the key in policy.api_key_env"
            )
        if self.api_key_env is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.api_key_env, re.ASCII):
            raise ImplicitPRMError(
                "policy.api_key_env: expected the name of an environment variable, not the key itself"
            )
        for key in self.extra_body or {}:
            if key in _REQUEST_OPTIONS:
                raise ImplicitPRMError(f"policy.extra_body.{key}: set {_REQUEST_OPTIONS[key]} instead")
            if key == "stream":
                raise ImplicitPRMError("policy.extra_body.stream: streaming is not supported; leave it out")


@dataclass
class SamplingConfig:
    """How responses are sampled.

    Args:
        n: Number of responses per problem.
        temperature: Temperature of the softmax.
        top_p: Nucleus sampling; 1 keeps the whole distribution.
        max_new_tokens: Maximum length of a response in tokens.
        batch_size: Number of problems per batch with transformers; None for as many as make 128 responses. Servers
            form their own batches.
        seed: Seed of the random numbers.
    """

    n: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 1024
    batch_size: int | None = None
    seed: int | None = 0

    @property
    def problems_per_batch(self) -> int:
        """`batch_size` with transformers."""
        return self.batch_size or max(1, 128 // self.n)

    def validate(self) -> None:
        check_range(self, "n", "max_new_tokens", "batch_size", at_least=1, where="sampling.")
        check_range(self, "temperature", above=0, where="sampling.")
        check_range(self, "top_p", above=0, at_most=1, where="sampling.")


@dataclass
class RolloutConfig:
    """`ipr-rollout`: sample responses to problems and grade them."""

    policy: ServerConfig | PolicyConfig
    problems: ProblemsConfig
    sampling: SamplingConfig
    output: str
    grading: GradingConfig = field(default_factory=GradingConfig)

    def validate(self) -> None:
        if isinstance(self.policy, ServerConfig) and self.sampling.batch_size is not None:
            raise ImplicitPRMError(
                f"sampling.batch_size={self.sampling.batch_size}: a server forms its own batches; leave batch_size "
                "null (as sampling=default does) and set policy.concurrency"
            )
        sandbox = self.policy.name == self.problems.name == "sandbox"
        if sandbox and self.problems.prompt_template == ProblemsConfig.prompt_template:
            raise ImplicitPRMError(
                "problems.prompt_template: the policy of the sandbox only knows bare problems; set it to {problem}"
            )
        if not isinstance(self.policy, ServerConfig) and self.sampling.seed is None:
            raise ImplicitPRMError("sampling.seed=null is for servers that do not support seeds; set a number")
