"""Characters of sampled tokens, whether or not the tokenizer would make the same tokens of the text."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from implicit_prm.rewards.step_splitting import split_steps
from implicit_prm.rl.token_steps import decoded, steps_of_ids


@pytest.fixture(scope="module")
def by_bytes():
    """Bytes, two merged tokens, and an end-of-turn token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet, "ab", "aĊ"])}
    inner = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("a", "Ċ")]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


def test_tokens_that_the_tokenizer_would_make(tokenizer):
    text = "12 + 7 = 19\n\\boxed{19}"
    batch = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    found, offsets = decoded(tokenizer, [*batch["input_ids"], tokenizer.eos_token_id])
    assert found == text
    assert offsets == [*batch["offset_mapping"], (len(text), len(text))]


def test_other_tokens_of_the_same_text(by_bytes):
    """`a` and `b` are two tokens here, which the tokenizer would merge."""
    ids = by_bytes.convert_tokens_to_ids(["a", "b", "Ċ", "aĊ", "a"])
    assert by_bytes("ab\na\na")["input_ids"] != ids
    text, offsets = decoded(by_bytes, ids)
    assert text == "ab\na\na"
    assert offsets == [(0, 1), (1, 2), (2, 3), (3, 5), (5, 6)]
    assert steps_of_ids(text, offsets, split_steps(text, "newline")) == [0, 0, 0, 1, 2]


def test_the_bytes_of_a_character(by_bytes):
    ids = [*by_bytes("a")["input_ids"], *by_bytes("€")["input_ids"], *by_bytes.convert_tokens_to_ids(["a", "b"])]
    text, offsets = decoded(by_bytes, ids)
    assert text == "a€ab"
    assert offsets == [(0, 1), (1, 1), (1, 1), (1, 2), (2, 3), (3, 4)]
    half = ids[:3]  # cut off within the character
    assert [end for _, end in decoded(by_bytes, half)[1]][-1] == len(decoded(by_bytes, half)[0])


def test_special_tokens_have_no_characters(by_bytes):
    end = by_bytes.eos_token_id
    assert decoded(by_bytes, [end]) == ("", [(0, 0)])
    ids = [*by_bytes.convert_tokens_to_ids(["a", "b"]), end]
    assert decoded(by_bytes, ids) == ("ab", [(0, 1), (1, 2), (2, 2)])
    assert steps_of_ids("", [(0, 0)], []) == [0]
