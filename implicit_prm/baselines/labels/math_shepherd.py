"""Math-Shepherd's step labels (Wang et al., arXiv 2312.08935): how often does a policy succeed from this step?

M completions are sampled and graded from the end of every step but the last. The last step's label is the outcome of
the response itself, counted as M of M or 0 of M. A prefix that several responses to a problem share is completed once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from implicit_prm.baselines.labels.labeller import LabelledGroup
from implicit_prm.baselines.layouts import read_positions
from implicit_prm.config import MathShepherdConfig, PolicyConfig
from implicit_prm.data.tokenization import EncodedResponse, Encoder, context_length
from implicit_prm.grading import Grader, GraderPool
from implicit_prm.models import loading
from implicit_prm.models.source import ModelSource
from implicit_prm.rollouts.transformers_sampler import Prefix, complete, open_for_sampling
from implicit_prm.types import Group, ImplicitPRMError, TokenCounts

# A prefix within a block of groups: the group's index in the block, and a hash of the prefix's token ids.
PrefixKey = tuple[int, bytes]


@dataclass(frozen=True)
class _Cut:
    """A response cut after a step: the hash and the ids of what is kept, and the number of tokens cut off."""

    key: bytes
    ids: list[int]
    remaining: int


@dataclass(frozen=True)
class _Completed:
    """The number of correct completions of a prefix, and the tokens they took."""

    correct: int
    tokens: TokenCounts


class MathShepherd:
    """Label steps by sampling completions from a policy, `problems_at_once` groups at a time.

    The column `step_counts` holds the number of correct completions out of M at each step, and `step_labels` their
    share (Math-Shepherd's soft estimate). The hard estimate, at least one correct completion, is `labels=hard` of
    `ipr-baseline`.

    Raises:
        ImplicitPRMError: the policy cannot be opened.
    """

    def __init__(self, config: MathShepherdConfig) -> None:
        assert isinstance(config.policy, PolicyConfig)  # MathShepherdConfig.validate
        self._config, self._source = config, ModelSource.of(config.policy)
        self._encoder = Encoder(loading.open_tokenizer(self._source), config.text)
        self.identity: dict[str, Any] = {"weights": self._source.weights()}

    def label(self, groups: Sequence[Group], done: Container[str]) -> Iterator[LabelledGroup]:
        """Label the groups whose id is not in `done`, in order."""
        model = open_for_sampling(self._source, self._config.policy)  # type: ignore[arg-type]
        self._check(groups, context_length(model.config, None))
        size = self._config.problems_at_once
        with GraderPool(self._config.grading) as graders:
            # Blocks are cut before finished groups are skipped: a resumed run then batches the same prefixes together,
            # and logits agree to the last bit.
            for block in (groups[start : start + size] for start in range(0, len(groups), size)):
                if all(group.id in done for group in block):
                    continue
                completed = self._complete(model, block, graders)
                for index, group in enumerate(block):
                    if group.id not in done:
                        yield self._labelled(group, index, completed)

    def _complete(self, model: Any, block: Sequence[Group], graders: GraderPool) -> dict[PrefixKey, _Completed]:
        """Complete every distinct prefix of the block's responses and grade the completions."""
        prefixes: dict[PrefixKey, Prefix] = {}
        remaining: dict[PrefixKey, int] = {}
        for index, group in enumerate(block):
            prompt_ids = self._encoder.prompt_ids(group.prompt)
            for encoded in self._encoder.group_responses(group):
                for cut in _cuts(encoded):
                    seed = self._seed(group, cut.key)
                    prefixes.setdefault((index, cut.key), Prefix(prompt_ids, cut.ids, seed))
                    remaining.setdefault((index, cut.key), cut.remaining)
        # A batch runs until its longest row ends, so prefixes with about as many tokens to go share a batch.
        order = sorted(prefixes, key=lambda key: (remaining[key], len(prefixes[key].ids)))
        size = self._config.sampling.problems_per_batch
        results = {}
        for keys in (order[start : start + size] for start in range(0, len(order), size)):
            batch = [prefixes[key] for key in keys]
            completions = complete(model, self._encoder, batch, self._config.sampling)
            for key, prefix, completion in zip(keys, batch, completions, strict=True):
                answer = str(block[key[0]].answer)
                correct = sum(graders.map(partial(_is_correct, answer), completion.texts))
                prefix_tokens = len(prefix.prompt_ids) + len(prefix.ids)
                tokens = TokenCounts(1, len(completion.texts), prefix_tokens, completion.tokens)
                results[key] = _Completed(correct, tokens)
        return results

    def _seed(self, group: Group, key: bytes) -> int:
        """A seed for each prefix, so that its completions do not depend on the other prefixes of the run."""
        name = f"{self._config.sampling.seed}\0{group.id}\0".encode() + key
        return int.from_bytes(hashlib.sha256(name).digest(), "big")

    def _labelled(self, group: Group, index: int, completed: dict[PrefixKey, _Completed]) -> LabelledGroup:
        m = self._config.sampling.n
        counts, used = [], set()
        for response, encoded in enumerate(self._encoder.group_responses(group)):
            keys = [(index, cut.key) for cut in _cuts(encoded)]
            used |= set(keys)
            outcome = [m * bool(group.correctness[response])] * bool(encoded.spans)
            counts.append([completed[key].correct for key in keys] + outcome)
        labels = [[count / m for count in response_counts] for response_counts in counts]
        tokens = sum((completed[key].tokens for key in used), TokenCounts())
        return LabelledGroup(group, labels, tokens, {"step_counts": counts, "completions_per_step": m})

    def _check(self, groups: Sequence[Group], context: int | None) -> None:
        """Refuse groups that cannot be labelled before sampling starts, rather than hours later."""
        new_tokens = self._config.sampling.max_new_tokens
        for group in groups:
            if group.answer is None:
                raise ImplicitPRMError(f"{group.id}: no answer to grade completions against; add a column `answer`")
            if context is None:
                continue
            room = context - len(self._encoder.prompt_ids(group.prompt)) - new_tokens
            for response, encoded in enumerate(self._encoder.group_responses(group)):
                longest = max((len(cut.ids) for cut in _cuts(encoded)), default=0)
                if longest > room:
                    raise ImplicitPRMError(
                        f"{group.id}, response {response}: the prompt, a prefix of {longest} tokens and "
                        f"sampling.max_new_tokens={new_tokens} exceed the model's context of {context} tokens; lower "
                        "sampling.max_new_tokens or remove the response"
                    )


def _is_correct(answer: str, grader: Grader, text: str) -> bool:
    return grader.grade(text, answer).correct


def _cuts(encoded: EncodedResponse) -> list[_Cut]:
    """The response cut after each step but the last."""
    ends = read_positions(encoded.step_of_token, len(encoded.spans))[:-1]
    prefixes = [encoded.ids[: end + 1] for end in ends]
    return [_Cut(_hash(ids), ids, len(encoded.ids) - len(ids)) for ids in prefixes]


def _hash(ids: Sequence[int]) -> bytes:
    return hashlib.sha256(torch.tensor(ids, dtype=torch.int64).numpy().tobytes()).digest()
