"""Where a step of a growing response ends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

# By step rule: a step with its end, after white space that is part of no step.
_STEP = {"newline": re.compile(r"\S.*\n"), "blank_line": re.compile(r"\S.*?\n[^\S\n]*\n", re.DOTALL)}
RULES = tuple(_STEP)


def step_end(text: str, rule: str) -> int | None:
    """Where the first step of `text` ends, in characters; None if it has not ended.

    Args:
        text: the step, as far as it has grown, and what follows it.
        rule: newline or blank_line, as for `rewards.step_splitting`.
    """
    step = _STEP[rule].search(text)
    return None if step is None else step.end()


class StepEnds:
    """Finds the end of a step in the tokens of a response.

    Args:
        tokenizer: of the generator.
        rule: newline or blank_line, as for `rewards.step_splitting`.
        chunk_tokens: a "step" is this many tokens instead.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rule: str, chunk_tokens: int | None = None) -> None:
        self._tokenizer, self._rule, self._chunk_tokens = tokenizer, rule, chunk_tokens

    def reached(self, ids: Sequence[int], start: int) -> bool:
        """Whether the step that starts at the token `start` has ended with the last of `ids`."""
        if self._chunk_tokens is not None:
            return len(ids) - start >= self._chunk_tokens
        if ids[-1] not in self._line_breaks:  # decoding every token would be slow
            return False
        return step_end(str(self._tokenizer.decode(list(ids[start:]))), self._rule) is not None

    @cached_property
    def _line_breaks(self) -> set[int]:
        """The tokens that hold a line break."""
        texts = self._tokenizer.batch_decode([[token] for token in range(len(self._tokenizer))])
        return {token for token, text in enumerate(texts) if "\n" in text}
