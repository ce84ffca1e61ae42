"""Math-Shepherd's step labels (Wang et al., arXiv 2312.08935): how often does a policy end well from here?

From the end of every step but the last, M completions are sampled and graded. The last step has nothing behind it: its
label is the response's own outcome, counted as M of M or 0 of M. Prefixes that responses to a problem share are
completed once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from implicit_prm.baselines.labels.run import Labelled
from implicit_prm.baselines.layouts import read_positions
from implicit_prm.config import MathShepherdConfig, PolicyConfig
from implicit_prm.data.tokenization import Encoder, context_length
from implicit_prm.grading.grader import Grader
from implicit_prm.models import forward, loading
from implicit_prm.rollouts.transformers_sampler import Prefix, complete
from implicit_prm.types import Group, ImplicitPRMError, TokenCounts


@dataclass(frozen=True)
class _Open:
    """A prefix to complete. `ahead` is how much the response it was cut from goes on for, in tokens."""

    prefix: Prefix
    ahead: int


@dataclass(frozen=True)
class _Completed:
    """How many completions were right, and what they took."""

    correct: int
    tokens: TokenCounts


class MathShepherd:
    """Labels with a policy's completions, some problems at a time.

    `step_counts` is the number of right completions of M at each step, `step_labels` their share: Math-Shepherd's soft
    estimate. Its hard one, was any of them right, is `labels=hard` of `ipr-baseline`.

    Raises:
        ImplicitPRMError: the policy cannot be opened.
    """

    def __init__(self, config: MathShepherdConfig) -> None:
        assert isinstance(config.policy, PolicyConfig)  # MathShepherdConfig.validate
        self._config = config
        self._encoder = Encoder(loading.open_tokenizer(config.policy), config.text)
        self.identity: dict[str, Any] = {"weights": loading.weights_of(config.policy)}

    def label(self, groups: Sequence[Group], done: Container[str]) -> Iterator[Labelled]:
        """The labels of the groups that are not `done`, in order."""
        model: Any = loading.open_model(self._config.policy).to(forward.best_device())  # type: ignore[arg-type]
        self._check(groups, context_length(model.config, None))
        size = self._config.problems_at_once
        with Grader() as grader:
            # Cut before any is left out: what a prefix is batched with moves the last bits of its logits.
            for block in (groups[start : start + size] for start in range(0, len(groups), size)):
                if all(group.id in done for group in block):
                    continue
                completed = self._complete(model, block, grader)
                for place, group in enumerate(block):
                    if group.id not in done:
                        yield self._labelled(group, place, completed)

    def _complete(self, model: Any, block: Sequence[Group], grader: Grader) -> dict[tuple[int, bytes], _Completed]:
        """Every prefix of the block's responses once, by its problem's place and its ids."""
        waiting: dict[tuple[int, bytes], _Open] = {}
        for place, group in enumerate(block):
            prompt_ids = self._encoder.prompt_ids(group.prompt)
            for response in range(len(group)):
                for key, ids, ahead in self._cut(group, response):
                    named = f"{self._config.sampling.seed}\0{group.id}\0".encode() + key
                    seed = int.from_bytes(hashlib.sha256(named).digest(), "big")
                    waiting.setdefault((place, key), _Open(Prefix(prompt_ids, ids, seed), ahead))
        # Rows of a batch go on until the last has ended, so those that have as far to go are together.
        order = sorted(waiting, key=lambda name: (waiting[name].ahead, len(waiting[name].prefix.ids)))
        size = self._config.sampling.problems_per_batch
        found = {}
        for batch in (order[start : start + size] for start in range(0, len(order), size)):
            prefixes = [waiting[name].prefix for name in batch]
            completed = complete(model, self._encoder, prefixes, self._config.sampling)
            for name, prefix, one in zip(batch, prefixes, completed, strict=True):
                answer = str(block[name[0]].answer)
                correct = sum(grader.grade(text, answer).correct for text in one.texts)
                begun = len(prefix.prompt_ids) + len(prefix.ids)
                found[name] = _Completed(correct, TokenCounts(1, len(one.texts), begun, one.tokens))
        return found

    def _labelled(self, group: Group, place: int, completed: dict[tuple[int, bytes], _Completed]) -> Labelled:
        most = self._config.sampling.n
        counts, used = [], set()
        for response in range(len(group)):
            keys = [(place, key) for key, _, _ in self._cut(group, response)]
            used |= set(keys)
            steps = len(self._encoded(group, response).spans)
            outcome = [most * bool(group.correctness[response])] * bool(steps)
            counts.append([completed[key].correct for key in keys] + outcome)
        labels = [[count / most for count in some] for some in counts]
        tokens = sum((completed[key].tokens for key in used), TokenCounts())
        return Labelled(group, labels, tokens, {"step_counts": counts, "completions_per_step": most})

    def _cut(self, group: Group, response: int) -> list[tuple[bytes, list[int], int]]:
        """What to complete of a response: key and ids of each prefix that ends with a step, and what is behind it."""
        encoded = self._encoded(group, response)
        ends = read_positions(encoded.step_of_token, len(encoded.spans))[:-1]
        prefixes = [encoded.ids[: end + 1] for end in ends]
        return [(_key(ids), ids, len(encoded.ids) - len(ids)) for ids in prefixes]

    def _encoded(self, group: Group, response: int) -> Any:
        given = group.steps[response] if group.steps is not None and self._config.steps == "given" else None
        try:
            return self._encoder.response(group.completions[response], group.finished[response], given)
        except ImplicitPRMError as error:
            raise ImplicitPRMError(f"{group.id}, response {response}: {error}") from None

    def _check(self, groups: Sequence[Group], context: int | None) -> None:
        """Refuse what cannot be labelled before anything is sampled, not hours later."""
        for group in groups:
            if group.answer is None:
                raise ImplicitPRMError(f"{group.id}: no answer to grade completions against; give a column answer")
            if context is None:
                continue
            room = context - len(self._encoder.prompt_ids(group.prompt)) - self._config.sampling.max_new_tokens
            for response in range(len(group)):
                longest = max((len(ids) for _, ids, _ in self._cut(group, response)), default=0)
                if longest > room:
                    raise ImplicitPRMError(
                        f"{group.id}, response {response}: its prompt, {longest} tokens to go on from and "
                        f"sampling.max_new_tokens={self._config.sampling.max_new_tokens} are more than the {context} "
                        "tokens of the model's context; lower sampling.max_new_tokens, or leave the response out"
                    )


def _key(ids: Sequence[int]) -> bytes:
    return hashlib.sha256(torch.tensor(ids, dtype=torch.int64).numpy().tobytes()).digest()
