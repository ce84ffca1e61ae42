"""Where in a response the reward is: sums of token rewards by class of token and by tenth of the response."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from implicit_prm.types import StepSpan, TokenSums

TOKEN_CLASSES = ("digits", "operators", "words", "newlines", "end of turn", "other")
TENTHS = 10
_SPECIAL = re.compile(r"<[|/]?\w+\|?>")  # <|im_end|>, </s>, <end_of_turn>
_OPERATORS = frozenset("+-−*/=<>^×÷·±%≤≥≈≠√")


@lru_cache(maxsize=2**16)
def token_class(text: str) -> str:
    """The class of a token by its characters. A token without characters, or a special one, is the end of turn.

    A token that ends a line is a newline, whatever else it holds (`.\\n\\n`). Otherwise letters make it a word, digits
    without letters digits, and nothing but operators an operator. Punctuation, brackets and spaces are `other`.
    """
    if not text or _SPECIAL.fullmatch(text):
        return "end of turn"
    if "\n" in text:
        return "newlines"
    if any(character.isalpha() for character in text):
        return "words"
    if any(character.isdigit() for character in text):
        return "digits"
    symbols = text.strip()
    return "operators" if symbols and _OPERATORS.issuperset(symbols) else "other"


def token_sums(response: str, spans: Sequence[StepSpan], rewards: Sequence[float]) -> TokenSums:
    """Sums over the tokens of one response.

    Args:
        response: the text, as the tokenizer's offsets refer to it.
        spans: [T] the characters of each token. An empty span at the end of the response is the end of turn.
        rewards: [T] the reward of each token, in beta x nats.

    Returns:
        Number of tokens, rewards and absolute rewards, by class and by tenth of the tokens.
    """
    names = [
        "other" if span.start == span.end < len(response) else token_class(response[span.start : span.end])
        for span in spans
    ]
    classes = np.array([TOKEN_CLASSES.index(name) for name in names], dtype=np.int64)
    tenths = np.arange(len(spans)) * TENTHS // max(len(spans), 1)
    values = np.asarray(rewards, dtype=np.float64)

    def sums(group: np.ndarray, count: int, weights: np.ndarray | None = None) -> list:
        return np.bincount(group, weights, count).tolist()

    return TokenSums(
        class_tokens=sums(classes, len(TOKEN_CLASSES)),
        class_rewards=sums(classes, len(TOKEN_CLASSES), values),
        class_magnitudes=sums(classes, len(TOKEN_CLASSES), np.abs(values)),
        tenth_tokens=sums(tenths, TENTHS),
        tenth_magnitudes=sums(tenths, TENTHS, np.abs(values)),
    )
