"""Steps of responses that a policy sampled as token ids."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from implicit_prm.rewards.step_splitting import steps_of_tokens
from implicit_prm.types import StepSpan


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text of a response, and the characters of each of its tokens.

    A policy may sample tokens that its tokenizer would not make of the text, so the text is not tokenized again unless
    that gives the same ids.

    Args:
        tokenizer: a fast tokenizer.
        ids: [T] token ids. Special tokens have no characters.

    Returns:
        The text without special tokens, and [T] pairs [start, end).
    """
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    plain = [number for number in ids if number not in special]
    text = _decode(tokenizer, plain)
    again = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = again["offset_mapping"] if again["input_ids"] == plain else _by_prefixes(tokenizer, plain, text)
    offsets, found, end = [], iter(spans), 0
    for number in ids:
        start, end = (end, end) if number in special else next(found)
        offsets.append((start, end))
    return text, offsets


def steps_of_ids(text: str, offsets: Sequence[tuple[int, int]], spans: Sequence[StepSpan]) -> list[int]:
    """[T] the step of each token; 0 for all of them if the text has no steps."""
    return steps_of_tokens(text, offsets, spans) if spans else [0] * len(offsets)


def _by_prefixes(tokenizer: PreTrainedTokenizerBase, ids: list[int], text: str) -> list[tuple[int, int]]:
    """[T] characters of each token, from the lengths of the decoded prefixes. Slow: T^2 tokens are decoded."""
    offsets, end = [], 0
    for size in range(1, len(ids) + 1):
        # The first bytes of a character decode to a replacement character; the token of its last byte gets it.
        whole = len(text) if size == len(ids) else len(_decode(tokenizer, ids[:size]).rstrip("\ufffd"))
        start, end = end, min(max(end, whole), len(text))
        offsets.append((start, end))
    return offsets


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
