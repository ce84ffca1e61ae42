"""Classes of tokens, and sums of rewards over them by hand."""

import pytest

from implicit_prm.rewards.attribution import TOKEN_CLASSES, token_class, token_sums
from implicit_prm.types import StepSpan


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("digits", ["7", " 12", "3.5", "1,000", "$4"]),
        ("operators", ["+", " =", "×", " <=", "−"]),
        ("words", [" the", "x2", "boxed", "数"]),
        ("newlines", ["\n", ".\n\n", "7\n"]),
        ("end of turn", ["", "<|im_end|>", "</s>", "<end_of_turn>"]),
        ("other", [".", " ", "\\", "{", "$", "+)", "😀"]),
    ],
)
def test_the_class_of_a_token(name, texts):
    assert {token_class(text) for text in texts} == {name}


def test_sums_by_hand():
    """Tokens "a", " +", "1", "\\n" and the end of turn; an empty token in the middle is not the end of turn."""
    text = "a +1\n"
    spans = [StepSpan(0, 1), StepSpan(1, 1), StepSpan(1, 3), StepSpan(3, 4), StepSpan(4, 5), StepSpan(5, 5)]
    sums = token_sums(text, spans, [1.0, 0.5, -2.0, 4.0, -0.25, 8.0])
    assert dict(zip(TOKEN_CLASSES, sums.class_tokens, strict=True)) == dict.fromkeys(TOKEN_CLASSES, 1)
    assert dict(zip(TOKEN_CLASSES, sums.class_rewards, strict=True)) == {
        "digits": 4.0,
        "operators": -2.0,
        "words": 1.0,
        "newlines": -0.25,
        "end of turn": 8.0,
        "other": 0.5,
    }
    assert sums.class_magnitudes == [abs(value) for value in sums.class_rewards]
    # Token t of 6 is in tenth t * 10 // 6.
    assert sums.tenth_magnitudes == [1.0, 0.5, 0.0, 2.0, 0.0, 4.0, 0.25, 0.0, 8.0, 0.0]
    assert sums.tenth_tokens == [1, 1, 0, 1, 0, 1, 1, 0, 1, 0]


def test_no_tokens():
    assert sum(token_sums("", [], []).class_tokens) == 0
