"""What each kind of model reads: ids, the positions that are read, and what is learnt there."""

import math

import pytest
from transformers import AutoTokenizer

from implicit_prm import sandbox
from implicit_prm.baselines.layouts import Layout, choose_tokens, read_positions
from implicit_prm.config import StepTokens, TextConfig
from implicit_prm.data.tokenization import Encoder
from implicit_prm.types import Group, ImplicitPRMError, StepSpan
from tests.conftest import tiny_model

TEXT = "12 + 7 = 19\n19 * 3 = 7\n\\boxed{7}"
TOKENS = StepTokens("<|system|>", "1", "0")


@pytest.fixture(scope="module")
def encoder():
    return Encoder(AutoTokenizer.from_pretrained(sandbox.POLICY_PATH), TextConfig(steps="newline"))


def _read(encoder, one):
    """The tokens at which the response is read."""
    places = read_positions(one.step_of_token, len(one.spans))
    return encoder.tokenizer.convert_ids_to_tokens([one.ids[place] for place in places])


def test_an_orm_is_read_once_at_the_last_token(encoder):
    one = Layout(encoder, "orm").response(TEXT)
    assert one.ids == encoder.response(TEXT).ids
    assert one.spans == [StepSpan(0, len(TEXT))]
    assert _read(encoder, one) == ["<|end|>"]
    assert _read(encoder, Layout(encoder, "orm").response(TEXT, finished=False)) == ["}"]


def test_a_value_head_is_read_at_the_last_token_of_every_step(encoder):
    one = Layout(encoder, "value_head").response(TEXT)
    assert one.ids == encoder.response(TEXT).ids
    assert len(one.spans) == 3
    assert _read(encoder, one) == ["\n", "\n", "<|end|>"]


def test_every_step_has_one_separator_behind_it_the_last_one_too(encoder):
    """The last step is there once, and nothing of the response is lost."""
    one = Layout(encoder, "next_token", TOKENS).response(TEXT)
    tokens = encoder.tokenizer.convert_ids_to_tokens(one.ids)
    assert tokens == [
        *("12", " + ", "7", " = ", "19", "\n", "<|system|>"),
        *("19", " * ", "3", " = ", "7", "\n", "<|system|>"),
        *("\\boxed{", "7", "}", "<|end|>", "<|system|>"),
    ]
    assert one.step_of_token == [0] * 7 + [1] * 7 + [2] * 5
    assert _read(encoder, one) == ["<|system|>"] * 3
    assert [TEXT[span.start : span.end] for span in one.token_spans if span.end > span.start] == [
        token for token in tokens if not token.startswith("<|")
    ]


def test_a_step_without_a_token_of_its_own_is_read_where_the_one_before_it_is():
    assert read_positions([0, 0, 2, 2], 3) == [1, 1, 3]


def test_nothing_is_read_of_a_response_without_a_step(encoder):
    for kind, tokens in (("orm", None), ("value_head", None), ("next_token", TOKENS)):
        assert Layout(encoder, kind, tokens).response("").spans == []


def _group(**changes):
    values = {"step_labels": [[1.0, 0.25, 0.0], [True, None, False]]} | changes
    return Group("g", "p", [TEXT, TEXT], [True, False], [True, True], **values)


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        ("orm", "outcome", [[1], [0]]),
        ("value_head", "outcome", [[1, 1, 1], [0, 0, 0]]),
        ("value_head", "hard", [[1, 1, 0], [1, math.nan, 0]]),
        ("value_head", "soft", [[1, 0.25, 0], [1, math.nan, 0]]),
        ("next_token", "soft", [[1, 0.25, 0], [1, math.nan, 0]]),
    ],
)
def test_targets_are_outcomes_or_labels_hard_or_soft(kind, labels, expected, encoder):
    tokens = TOKENS if kind == "next_token" else None
    found = Layout(encoder, kind, tokens, labels).group(_group())
    assert [list(one.step_labels) for one in found.responses] == [pytest.approx(some, nan_ok=True) for some in expected]
    assert found.labels == [True, False]


def test_labels_that_do_not_fit_the_steps_are_refused(encoder):
    layout = Layout(encoder, "value_head", labels="hard")
    with pytest.raises(ImplicitPRMError, match=r"g, response 1: 4 step labels but 3 steps.*data\.steps"):
        layout.group(_group(step_labels=[[1.0, 0.25, 0.0], [1.0] * 4]))
    with pytest.raises(ImplicitPRMError, match=r"g, response 1.*ipr-label"):
        layout.group(_group(step_labels=[[1.0, 0.25, 0.0], None]))


def test_the_sandbox_has_no_reserved_tokens_and_existing_ones_are_chosen(encoder):
    """<|system|> stands in none of its prompts or responses; 1 and 0 are single tokens, + and - are not."""
    assert choose_tokens(encoder, 63) == TOKENS


def _with_tokens(encoder, *special):
    tokenizer = AutoTokenizer.from_pretrained(sandbox.POLICY_PATH)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|system|>", *special]})
    tokenizer.add_tokens(["+", "-"])
    return Encoder(tokenizer, TextConfig(steps="newline"))


def test_a_reserved_token_and_plus_and_minus_come_first(encoder):
    reserved = ["<|other|>", "<|reserved_special_token_1|>", "<|reserved_special_token_2|>"]
    richer = _with_tokens(encoder, *reserved)
    assert choose_tokens(richer, len(richer.tokenizer)) == StepTokens("<|reserved_special_token_1|>", "+", "-")
    # Not a token that the model has no embedding for.
    number = richer.tokenizer.convert_tokens_to_ids("<|reserved_special_token_1|>")
    assert choose_tokens(richer, number).separator == "<|system|>"


def test_where_no_special_token_is_free_the_newline_separates_and_without_verdicts_the_user_is_asked():
    tokenizer = AutoTokenizer.from_pretrained(sandbox.POLICY_PATH)
    encoder = Encoder(tokenizer, TextConfig(steps="newline", system_prompt="0"))
    assert choose_tokens(encoder, 63).separator == "\n"
    encoder.tokenizer = _Wordless(tokenizer)
    with pytest.raises(ImplicitPRMError, match="for good and bad"):
        choose_tokens(encoder, 63)


class _Wordless:
    """A tokenizer that knows no word."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, text, **options):
        if text in ("+", "-", "Yes", "No", "yes", "no", "1", "0"):
            return {"input_ids": [self._tokenizer.unk_token_id]}
        return self._tokenizer(text, **options)


def test_tokens_that_are_not_in_the_vocabulary_are_named(encoder):
    with pytest.raises(ImplicitPRMError, match=r"no token '<step>'"):
        Layout(encoder, "next_token", StepTokens("<step>", "1", "0"))


def test_the_tiny_model_embeds_what_is_chosen(tokenizer):
    model = tiny_model(tokenizer)
    encoder = Encoder(tokenizer, TextConfig(steps="newline"))
    assert choose_tokens(encoder, model.config.vocab_size) == TOKENS
