"""Requests of all routes. A field that would change the scores and is not supported is refused, not ignored."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Message(_Strict):
    """A message of a chat, with a text as its content."""

    role: str
    content: str


def chat(messages: list[Message]) -> list[dict[str, str]]:
    """Messages as the rest of the package has them."""
    return [message.model_dump() for message in messages]


class StepRewardsRequest(_Strict):
    """`/v1/step_rewards`: responses to one prompt.

    Attributes:
        problem: the problem's text, which `prompt_template` and the chat template are applied to.
        messages: the prompt as a chat, in the place of `problem`.
        responses: K responses.
        finished: [K] whether each response ended by itself; true by default.
        steps: [K] the steps of each response, for a server with `steps=given`.
    """

    problem: str | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    responses: list[str] = Field(min_length=1)
    finished: list[bool] | None = None
    steps: list[list[str]] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.problem is None) == (self.messages is None):
            raise ValueError("expected either problem or messages")
        for name in ("finished", "steps"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.responses):
                raise ValueError(
                    f"expected one entry of {name} for each of {len(self.responses)} responses, got {len(values)}"
                )
        return self


class ClassifyRequest(_Strict):
    """vLLM's `/classify`: a chat that ends with the response, or texts that the chat template rendered.

    Attributes:
        model: not compared with the checkpoint's name; a server has one model.
        user: not used.
        request_id: not used.
        messages: the chat.
        input: the rendered texts, in the place of `messages`.
        use_activation: whether log-ratios pass through a sigmoid, as by default in vLLM. Probabilities already have.
    """

    model: str | None = None
    user: str | None = None
    request_id: str | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    input: str | list[str] | None = None
    use_activation: bool | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.messages is None) == (self.input is None):
            raise ValueError("expected either messages or input")
        return self


class PoolingRequest(ClassifyRequest):
    """vLLM's `/pooling`: the same, for one number per step.

    Attributes:
        task: `token_classify`, vLLM's name for scores of tokens or steps, or `classify`, one score for each text.
        encoding_format: numbers come as JSON.
    """

    task: Literal["token_classify", "classify"] | None = None
    encoding_format: Literal["float"] = "float"


class Document(_Strict):
    """A response to rerank, as Jina's and Cohere's callers may write it."""

    text: str


class RerankRequest(_Strict):
    """`/rerank` of vLLM, Jina and Cohere.

    Attributes:
        model: not compared with the checkpoint's name; a server has one model.
        user: not used.
        request_id: not used.
        query: the problem.
        documents: the responses.
        top_n: how many of them to answer, the best ones; 0 and null for all.
        return_documents: false leaves out the texts of the responses.
        use_activation: as for `/classify`.
    """

    model: str | None = None
    user: str | None = None
    request_id: str | None = None
    query: str
    documents: list[str | Document] = Field(min_length=1)
    top_n: int | None = Field(None, ge=0)
    return_documents: bool | None = None
    use_activation: bool | None = None


class GetRewardRequest(_Strict):
    """OpenRLHF's `/get_reward`.

    Attributes:
        query: K texts that start with their prompts.
        prompts: [K] the prompts; without them (OpenRLHF before 0.6), `query` is split at the generation prompt.
        labels: not used; they are for rewards by rule.
    """

    query: list[str] = Field(min_length=1)
    prompts: list[str] | None = None
    labels: Any = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.prompts is not None and len(self.prompts) != len(self.query):
            raise ValueError(
                f"expected one entry of prompts for each of {len(self.query)} queries, got {len(self.prompts)}"
            )
        return self


class ScoreEvaluationRequest(_Strict):
    """LLaMA-Factory's `/v1/score/evaluation`.

    Attributes:
        model: not compared with the checkpoint's name; a server has one model.
        messages: texts that the chat template rendered.
        max_length: null only: LLaMA-Factory cuts texts to this length, and a text that was cut has another score.
    """

    model: str | None = None
    messages: list[str] = Field(min_length=1)
    max_length: None = None


class RemoteRMRequest(_Strict):
    """slime's `remote_rm`.

    Attributes:
        prompt: a text, bare or rendered, or a chat.
        response: the response.
        label: not used; it is for rewards by rule.
    """

    prompt: str | list[Message]
    response: str
    label: Any = None
