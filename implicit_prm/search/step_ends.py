"""Where a step of a growing response ends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

# By step rule: the text that a server stops at, and a step that ends so, after white space that is part of no step.
SEPARATORS = {"newline": "\n", "blank_line": "\n\n"}
_ENDED = {"newline": re.compile(r"\S.*\n"), "blank_line": re.compile(r"\S.*\n[^\S\n]*\n", re.DOTALL)}


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
        step = str(self._tokenizer.decode(list(ids[start:])))
        return _ENDED[self._rule].search(step) is not None

    @cached_property
    def _line_breaks(self) -> set[int]:
        """The tokens that hold a line break."""
        texts = self._tokenizer.batch_decode([[token] for token in range(len(self._tokenizer))])
        return {token for token, text in enumerate(texts) if "\n" in text}
